// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Tells an app who its client really is, on connections that the node daemon makes on a client's behalf.
 *
 * Runs in the pod's cgroup when a process asks for the other end of a connection: accept() and getpeername(). If
 * that end is one of the daemon's sources the answer is the client that the daemon speaks for. Every other answer is
 * left as it is. Nothing is done to packets: they stay on the pod's loopback, from and to the pod's own address.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "tproxy.h"

/* <sys/socket.h> is not for the BPF target. */
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1

#define MAX_CLIENTS 32768

/* By the source of one of our connections to the app: the client it is made for. Only the daemon writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_CLIENTS);
	__type(key, struct tproxy_source);
	__type(value, struct tproxy_source);
} tproxy_clients SEC(".maps");

SEC("cgroup/getpeername4")
int tproxy_peer4(struct bpf_sock_addr *ctx)
{
	struct tproxy_source source = {
		.address = { ctx->user_ip4 },
		.port = (__u16)ctx->user_port,
		.family = AF_INET,
	};
	struct tproxy_source *client;

	if (ctx->type != SOCK_STREAM)
		return 1;
	client = bpf_map_lookup_elem(&tproxy_clients, &source);
	if (client && client->family == AF_INET) {
		ctx->user_ip4 = client->address[0];
		ctx->user_port = client->port;
	}
	return 1;
}

SEC("cgroup/getpeername6")
int tproxy_peer6(struct bpf_sock_addr *ctx)
{
	__u32 address[4] = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] };
	/* An app on [::] sees IPv4 clients as mapped addresses. */
	int mapped = !address[0] && !address[1] && address[2] == bpf_htonl(0xffff);
	struct tproxy_source source = {
		.port = (__u16)ctx->user_port,
		.family = mapped ? AF_INET : AF_INET6,
	};
	struct tproxy_source *client;

	if (ctx->type != SOCK_STREAM)
		return 1;
	if (mapped) {
		source.address[0] = address[3];
	} else {
		source.address[0] = address[0];
		source.address[1] = address[1];
		source.address[2] = address[2];
		source.address[3] = address[3];
	}
	client = bpf_map_lookup_elem(&tproxy_clients, &source);
	if (!client || client->family != source.family)
		return 1;
	if (mapped) {
		ctx->user_ip6[3] = client->address[0];
	} else {
		ctx->user_ip6[0] = client->address[0];
		ctx->user_ip6[1] = client->address[1];
		ctx->user_ip6[2] = client->address[2];
		ctx->user_ip6[3] = client->address[3];
	}
	ctx->user_port = client->port;
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
