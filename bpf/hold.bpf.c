// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Holds back the next HTTP/1 request on connections that an app has had since before it was intercepted, so that the
 * node daemon can take the connection over between two requests.
 *
 * A socket filter on single sockets of the app: it sees what the client sends before the app does. It holds back a
 * packet that begins like a request, and what follows it, and tells the daemon. Whatever it does not understand, or
 * the daemon does not take in time, passes: what was held back is then sent again by the client's TCP.
 */
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "hold.h"

#define PASS 0xffffffff
#define DROP 0

/* Longer than a take-over needs, shorter than TCP waits before it sends a packet again (200 ms at least). */
#define HOLD_NS (150 * 1000 * 1000ULL)

#define MAX_WATCHED 16384
#define RING_BYTES (1 << 21)

/* By socket cookie. Present means watched. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_WATCHED);
	__type(key, __u64);
	__type(value, struct tproxy_watched);
} tproxy_watched SEC(".maps");

/* Requests held back. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} tproxy_requests SEC(".maps");

/* One deadline, bpf_ktime_get_ns() time. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} tproxy_hlease SEC(".maps");

static int lease_holds(__u64 now)
{
	__u32 first = 0;
	__u64 *deadline = bpf_map_lookup_elem(&tproxy_hlease, &first);

	return deadline && now < *deadline;
}

/* A capital letter, then more of them, then a space: nothing that WebSocket, TLS or HTTP/2 would send. */
static int begins_request(const __u8 *start)
{
	int i;

	for (i = 0; i < 8; i++) {
		if (start[i] == ' ')
			return i >= 3;
		if (start[i] < 'A' || start[i] > 'Z')
			return 0;
	}
	return 0;
}

/* Tell the daemon of a packet, piece by piece, as much as there is room for. Whether there was any. */
static int tell(struct __sk_buff *skb, const struct tproxy_piece *packet, __u32 header, __u32 length)
{
	struct tproxy_piece *piece;
	__u32 done, size;
	int i;

	for (i = 0; i < TPROXY_MOST; i++) {
		done = i * TPROXY_PIECE;
		if (done >= length)
			break;
		piece = bpf_ringbuf_reserve(&tproxy_requests, sizeof(*piece), 0);
		if (!piece)
			break;
		size = length - done;
		if (size > TPROXY_PIECE)
			size = TPROXY_PIECE;
		if (!size || bpf_skb_load_bytes(skb, header + done, piece->bytes, size)) {
			bpf_ringbuf_discard(piece, 0);
			break;
		}
		piece->cookie = packet->cookie;
		piece->sequence = packet->sequence + done;
		piece->acknowledged = packet->acknowledged;
		piece->size = size;
		piece->more = packet->more;
		bpf_ringbuf_submit(piece, 0);
	}
	return i > 0;
}

/* The app shall have it. */
static int pass(struct tproxy_watched *watched, __u32 acknowledged, __u32 length)
{
	if (length) {
		watched->heard = 1;
		watched->answer = acknowledged;
	}
	return PASS;
}

SEC("socket")
int tproxy_hold(struct __sk_buff *skb)
{
	__u64 cookie = bpf_get_socket_cookie(skb);
	struct tproxy_watched *watched = bpf_map_lookup_elem(&tproxy_watched, &cookie);
	/* Only the beginning of it is used. */
	struct {
		__u64 cookie;
		__u32 sequence, acknowledged, size, more;
	} packet = {.cookie = cookie};
	__u32 header, length;
	struct tcphdr tcp;
	__u8 start[8];
	__u64 now;

	/* Nobody waits for this connection (any more). */
	if (!watched)
		return PASS;

	/* The daemon hangs or has died. */
	now = bpf_ktime_get_ns();
	if (!lease_holds(now))
		return PASS;

	if (bpf_skb_load_bytes(skb, 0, &tcp, sizeof(tcp)))
		return PASS;
	header = tcp.doff * 4;
	if (tcp.rst || header < sizeof(tcp) || skb->len < header)
		return PASS;
	length = skb->len - header;
	packet.sequence = bpf_ntohl(tcp.seq);
	packet.acknowledged = bpf_ntohl(tcp.ack_seq);

	/* What follows a request that is held back has to wait as well, an end above all. */
	if (watched->held_ns) {
		if (now - watched->held_ns < HOLD_NS) {
			packet.more = 1;
			tell(skb, (void *)&packet, header, length);
			return length || tcp.fin ? DROP : PASS;
		}
		/* The daemon did not take it. */
		watched->held_ns = 0;
		watched->passed = packet.sequence + length;
		return pass(watched, packet.acknowledged, length);
	}

	/* The daemon had a look and does not want it. */
	if (watched->passed && (__s32)(packet.sequence - watched->passed) < 0)
		return pass(watched, packet.acknowledged, length);

	/* Since the client sent the last that the app was let have, the app has answered nothing: this goes on with that. */
	if (watched->heard && packet.acknowledged == watched->answer)
		return pass(watched, packet.acknowledged, length);

	if (length < TPROXY_LEAST || tcp.syn || tcp.fin)
		return pass(watched, packet.acknowledged, length);
	if (bpf_skb_load_bytes(skb, header, start, sizeof(start)) || !begins_request(start))
		return pass(watched, packet.acknowledged, length);
	if (!tell(skb, (void *)&packet, header, length))
		return pass(watched, packet.acknowledged, length);
	watched->held_ns = now;
	return DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
