// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Hands new TCP connections, or UDP datagrams, of intercepted ports to the node daemon's sockets.
 *
 * Runs where the kernel looks for a listening socket: once per connection, never for an established one, and once per
 * datagram, never for a connected socket's; for packets from outside and over loopback alike. It only ever selects a
 * socket or does nothing. Doing nothing means that the app gets the packet, as if tproxy did not exist: that is what
 * every doubt below comes to (fail open).
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

#include "tproxy.h"

/* <sys/socket.h> is not for the BPF target. */
#define AF_INET 2
#define AF_INET6 10

#define MAX_PORTS 1024
#define MAX_OWN 16384
#define MAX_PASSED 16384

/* Present means steered. Only the daemon adds and removes entries. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_PORTS);
	__type(key, struct tproxy_port);
	__type(value, struct tproxy_counters);
} tproxy_ports SEC(".maps");

/* Our listening sockets inside this namespace; the kernel removes one when it closes. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, TPROXY_LISTENERS);
	__type(key, enum tproxy_listener);
	__type(value, __u64);
} tproxy_listen SEC(".maps");

/* Our own connections to the app, from before their SYN until they are closed. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_OWN);
	__type(key, struct tproxy_source);
	__type(value, __u8);
} tproxy_own SEC(".maps");

/* Who is let through to which of the pod's ports: checkers that shall find out that the app is gone. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_PASSED);
	__type(key, struct tproxy_passed);
	__type(value, __u8);
} tproxy_passed SEC(".maps");

/* One deadline, bpf_ktime_get_ns() time. All attachments of a daemon share the map: one write renews them all. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} tproxy_lease SEC(".maps");

static int lease_holds(void)
{
	__u32 first = 0;
	__u64 *deadline = bpf_map_lookup_elem(&tproxy_lease, &first);

	return deadline && bpf_ktime_get_ns() < *deadline;
}

static void remote_address(const struct bpf_sk_lookup *ctx, __u32 address[4])
{
	if (ctx->family == AF_INET) {
		address[0] = ctx->remote_ip4;
	} else {
		address[0] = ctx->remote_ip6[0];
		address[1] = ctx->remote_ip6[1];
		address[2] = ctx->remote_ip6[2];
		address[3] = ctx->remote_ip6[3];
	}
}

static int is_own(const struct bpf_sk_lookup *ctx)
{
	struct tproxy_source source = {
		.port = (__u16)ctx->remote_port,
		.family = (__u16)ctx->family,
	};

	remote_address(ctx, source.address);
	return bpf_map_lookup_elem(&tproxy_own, &source) != NULL;
}

static int is_passed(const struct bpf_sk_lookup *ctx)
{
	struct tproxy_passed passed = {
		.port = (__u16)ctx->local_port,
		.family = (__u16)ctx->family,
	};

	remote_address(ctx, passed.address);
	return bpf_map_lookup_elem(&tproxy_passed, &passed) != NULL;
}

static int steer(struct bpf_sk_lookup *ctx, struct tproxy_counters *counters)
{
	enum tproxy_listener key = ctx->family == AF_INET ? TPROXY_LISTENER_IP4 : TPROXY_LISTENER_IP6;
	struct bpf_sock *listener;
	long failed;

	/* Nobody serves our socket right now: the daemon hangs, or has not begun. The app serves. */
	if (!lease_holds()) {
		counters->lease_expired++;
		return SK_PASS;
	}

	/* No socket for this family, or it closed under us: the app serves. */
	listener = bpf_map_lookup_elem(&tproxy_listen, &key);
	if (!listener) {
		counters->no_listener++;
		return SK_PASS;
	}

	/* An older program on this namespace may have chosen already; the last one attached wins. */
	failed = bpf_sk_assign(ctx, listener, BPF_SK_LOOKUP_F_REPLACE);
	bpf_sk_release(listener);

	/* A socket that the kernel will not take, for instance while it is closing: the app serves. */
	if (failed)
		counters->no_listener++;
	else
		counters->steered++;
	return SK_PASS;
}

SEC("sk_lookup")
int tproxy_lookup(struct bpf_sk_lookup *ctx)
{
	struct tproxy_port port = {
		.number = (__u16)ctx->local_port,
		.protocol = IPPROTO_TCP,
	};
	struct tproxy_counters *counters;

	/* UDP and whatever comes later: not ours, the app's. */
	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;

	/* A port nobody intercepts: this lookup is all that it pays. */
	counters = bpf_map_lookup_elem(&tproxy_ports, &port);
	if (!counters)
		return SK_PASS;

	/* Our own connection to the app would come back to us for ever: let it through, lease or no lease. */
	if (is_own(ctx)) {
		counters->own++;
		return SK_PASS;
	}

	/* A checker, and the app is gone: the kernel refuses, as it would without us. */
	if (is_passed(ctx)) {
		counters->passed++;
		return SK_PASS;
	}

	return steer(ctx, counters);
}

/* Attached only where a UDP port is intercepted. The daemon sends nothing to the app by UDP, so nothing is exempt. */
SEC("sk_lookup")
int tproxy_udp(struct bpf_sk_lookup *ctx)
{
	struct tproxy_port port = {
		.number = (__u16)ctx->local_port,
		.protocol = IPPROTO_UDP,
	};
	struct tproxy_counters *counters;

	if (ctx->protocol != IPPROTO_UDP)
		return SK_PASS;

	counters = bpf_map_lookup_elem(&tproxy_ports, &port);
	if (!counters)
		return SK_PASS;

	return steer(ctx, counters);
}

char _license[] SEC("license") = "Dual BSD/GPL";
