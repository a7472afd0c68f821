"""A PostgreSQL of its own for a pod, with a password: `python postgres.py DIRECTORY`, which is emptied with the pod."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PASSWORD = "of-the-test"
AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")


def main() -> None:
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"))
    data = Path(sys.argv[1]) / "data"
    data.mkdir(mode=0o700)
    shutil.chown(data, "postgres", "postgres")
    file = data.parent / "password"
    file.write_text(PASSWORD)
    data.parent.chmod(0o755)
    made = ["--pgdata", data, "--username=postgres", "--auth=scram-sha-256", f"--pwfile={file}", "--no-sync"]
    subprocess.run([*AS_POSTGRES, binaries / "initdb", *made], check=True)
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all all scram-sha-256\n")
    settings = {"listen_addresses": "*", "unix_socket_directories": "", "fsync": "off"}
    options = [f"-c{name}={value}" for name, value in settings.items()]
    os.execvp(AS_POSTGRES[0], [*AS_POSTGRES, str(binaries / "postgres"), "-D", str(data), *options])  # noqa: S606


if __name__ == "__main__":
    main()
