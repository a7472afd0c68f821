"""What `tproxy gather-logs` collects for somebody who is asked for help, without the secrets."""
