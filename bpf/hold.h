/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the kernel program and the daemon tell each other about held-back requests. `tproxy/steer/hold.py` has the same
 * layout in Python; a test compares the two.
 */
#ifndef HOLD_H
#define HOLD_H

#include <linux/types.h>

/* The daemon gets packets in pieces of so many bytes, and so many pieces of one; the client sends the rest again. */
#define TPROXY_PIECE 4096
#define TPROXY_MOST 16
/* "GET / HTTP/1.1\r\n": nothing shorter is a request. */
#define TPROXY_LEAST 16

/* A connection that is watched. */
struct tproxy_watched {
	__u64 held_ns; /* since when a request is held back, or 0 */
	__u32 passed;  /* what comes before this sequence number is the app's, or 0 */
	__u32 heard;   /* 1 once the app has been let have anything */
	__u32 answer;  /* what the client had of the app when it sent the last of that */
	__u32 padding;
};

/* Part of what is held back. */
struct tproxy_piece {
	__u64 cookie;
	__u32 sequence;	    /* of its first byte */
	__u32 acknowledged; /* by the client: the next byte it wants of the app */
	__u32 size;
	__u32 more; /* 0 in the packet that the request begins with */
	__u8 bytes[TPROXY_PIECE];
};

#endif
