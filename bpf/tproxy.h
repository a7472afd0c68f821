/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the kernel programs and the daemon exchange through maps. `tproxy/steer/layout.py` packs the same bytes;
 * a test reads the sizes below from the compiled object's BTF and compares.
 */
#ifndef TPROXY_H
#define TPROXY_H

#include <linux/types.h>

/* A port of the pod that is steered while it has an entry. */
struct tproxy_port {
	__u16 number;   /* host order */
	__u16 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
};

/* What happened to new connections, or to datagrams, of one port, one copy per CPU. */
struct tproxy_counters {
	__u64 steered;
	__u64 own;
	__u64 lease_expired;
	__u64 no_listener;
	__u64 passed;
};

/* The source of one of our own connections to the app, as its SYN carries it. */
struct tproxy_source {
	__u32 address[4]; /* network order; IPv4 in the first word, the rest zero */
	__u16 port;       /* network order */
	__u16 family;     /* AF_INET also for IPv4 sent from an IPv6 socket: the packet counts */
};

/* Who is let through to one of the pod's ports. */
struct tproxy_passed {
	__u32 address[4]; /* as in tproxy_source */
	__u16 port;       /* the pod's, host order */
	__u16 family;
};

/* Keys of the listener map: one attachment is about one protocol. */
enum tproxy_listener {
	TPROXY_LISTENER_IP4,
	TPROXY_LISTENER_IP6,
	TPROXY_LISTENERS,
};

#endif
