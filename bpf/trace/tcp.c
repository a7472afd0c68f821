// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * What happens to the TCP sockets and packets of some network namespaces, for `tproxy node trace`.
 *
 * bcc compiles this at run time, with whatever kernel headers there are: nothing here is taken from a header that
 * differs between kernels. Where the fields of an event are (FIELD_…) says the tracepoint's own description. Where a
 * tracepoint gives only a pointer to a socket or a packet, the running kernel's BTF says what is where behind it
 * (OFFSET_…). These and the rest of the names that nobody defines here are defined by `tproxy/trace/program.py`.
 *
 * Filters apply before anything else. What passes them is always counted; it is also reported while there are fewer than
 * RATE reports in a second, and room for them.
 */

#define KIND_STATE 0
#define KIND_RETRANSMIT 1
#define KIND_RESET_SENT 2
#define KIND_RESET_RECEIVED 3
#define KIND_DROP 4
#define KINDS 5

/* Indexes of `totals` behind the kinds: reports that did not fit into the buffer, and those beyond RATE. */
#define TOTAL_LOST KINDS
#define TOTAL_OMITTED (KINDS + 1)
#define TOTALS (KINDS + 2)

/* Also counted are drops by reason, those of higher numbers together. */
#define REASONS 256

/* Powers of two of microseconds. */
#define SLOTS 40

#define IP4 2
#define IP6 10
#define ETHERTYPE_IP4 0x0800
#define ETHERTYPE_IP6 0x86dd
#define TCP 6
#define UDP 17
#define ESTABLISHED 1
#define SYN_SENT 2
#define CLOSE 7

/* `tproxy/trace/program.py` reads this. */
struct report {
	u64 time;    /* CLOCK_MONOTONIC */
	u64 connect; /* how long the handshake took that this ended, ns; 0: none, or not seen */
	u64 open;    /* how long the connection was open that this closed, ns; likewise */
	u32 netns;
	u32 reason; /* of drops and resets */
	u32 local[4];
	u32 remote[4];
	u16 local_port; /* host order */
	u16 remote_port;
	u8 family;
	u8 protocol;
	u8 kind;
	u8 old_state;
	u8 new_state;
	u8 incoming; /* a packet that came: remote sent it */
	u8 unused[6];
};

struct times {
	u64 begun;
	u64 opened;
};

struct window {
	u64 second;
	u64 reports;
};

BPF_HASH(tproxy_traced, u32, u8, 4096);
BPF_TABLE("lru_hash", u64, struct times, tproxy_conns, 32768);
BPF_PERCPU_ARRAY(tproxy_totals, u64, TOTALS);
BPF_PERCPU_ARRAY(tproxy_reasons, u64, REASONS);
BPF_PERCPU_ARRAY(tproxy_connects, u64, SLOTS);
BPF_PERCPU_ARRAY(tproxy_opens, u64, SLOTS);
BPF_ARRAY(tproxy_windows, struct window, 2);
BPF_RINGBUF_OUTPUT(tproxy_reports, RING_PAGES);

#define FIELD(type, offset) (*(type *)((void *)ctx + (offset)))
#define READ(to, base, offset) bpf_probe_read_kernel(&(to), sizeof(to), (void *)(base) + (offset))

static __always_inline int wanted_netns(u32 inode)
{
	return tproxy_traced.lookup(&inode) != 0;
}

static __always_inline int wanted_port(u16 one, u16 other)
{
	return !PORT || one == PORT || other == PORT;
}

static __always_inline u32 netns_of(void *net)
{
	u32 inode = 0;

	if (net)
		READ(inode, net, OFFSET_NET_INODE);
	return inode;
}

static __always_inline u32 netns_of_sock(void *sk)
{
	void *net = 0;

	READ(net, sk, OFFSET_SOCK_NET);
	return netns_of(net);
}

static __always_inline void count_slot(int opened, u64 ns)
{
	u64 us = ns / 1000;
	u32 slot = 0;

	if (us >> 32) { slot += 32; us >>= 32; }
	if (us >> 16) { slot += 16; us >>= 16; }
	if (us >> 8) { slot += 8; us >>= 8; }
	if (us >> 4) { slot += 4; us >>= 4; }
	if (us >> 2) { slot += 2; us >>= 2; }
	if (us >> 1) { slot += 1; us >>= 1; }
	slot += us;
	if (slot >= SLOTS)
		slot = SLOTS - 1;
	if (opened)
		tproxy_opens.increment(slot);
	else
		tproxy_connects.increment(slot);
}

/* State changes are by far the most frequent: they have a window of their own, so that they crowd nothing out. */
static __always_inline int within_rate(u32 which, u64 now)
{
	u64 second = now >> 30;
	struct window *window = tproxy_windows.lookup(&which);

	if (!window)
		return 0;
	if (window->second != second) {
		window->second = second;
		window->reports = 0;
	}
	if (window->reports >= RATE)
		return 0;
	__sync_fetch_and_add(&window->reports, 1);
	return 1;
}

static __always_inline void send(struct report *report)
{
	tproxy_totals.increment(report->kind);
	if (!within_rate(report->kind != KIND_STATE, report->time))
		tproxy_totals.increment(TOTAL_OMITTED);
	else if (tproxy_reports.ringbuf_output(report, sizeof(*report), 0))
		tproxy_totals.increment(TOTAL_LOST);
}

/* Any socket, also one that only waits for the last packet of its handshake, or for stragglers. 0: not wanted. */
static __always_inline int describe_sock(struct report *report, void *sk)
{
	u16 port = 0, family = 0;

	report->netns = netns_of_sock(sk);
	if (!wanted_netns(report->netns))
		return 0;
	if (!report->local_port)
		READ(report->local_port, sk, OFFSET_SOCK_LOCAL_PORT);
	READ(port, sk, OFFSET_SOCK_REMOTE_PORT);
	report->remote_port = bpf_ntohs(port);
	if (!wanted_port(report->local_port, report->remote_port))
		return 0;
	READ(family, sk, OFFSET_SOCK_FAMILY);
	report->family = family;
	if (family == IP4) {
		READ(report->local[0], sk, OFFSET_SOCK_LOCAL4);
		READ(report->remote[0], sk, OFFSET_SOCK_REMOTE4);
	} else {
		READ(report->local, sk, OFFSET_SOCK_LOCAL6);
		READ(report->remote, sk, OFFSET_SOCK_REMOTE6);
	}
	READ(report->new_state, sk, OFFSET_SOCK_STATE);
	report->protocol = TCP;
	return 1;
}

/*
 * A packet, by its own headers, which has come unless it is from the port of the socket `sk` that it belongs to; that may
 * be none. 0: not wanted, or no IP.
 */
static __always_inline int describe_packet(struct report *report, void *skb, u16 ethertype, void *sk)
{
	void *head = 0;
	u16 network = 0, port = 0, ports[2] = {};
	u8 first = 0;
	u32 length;

	READ(head, skb, OFFSET_SKB_HEAD);
	READ(network, skb, OFFSET_SKB_NETWORK_HEADER);
	head += network;
	READ(first, head, 0);
	if (ethertype == ETHERTYPE_IP4 && first >> 4 == 4) {
		report->family = IP4;
		READ(report->protocol, head, 9);
		READ(report->remote[0], head, 12);
		READ(report->local[0], head, 16);
		length = (first & 15) * 4;
	} else if (ethertype == ETHERTYPE_IP6 && first >> 4 == 6) {
		report->family = IP6;
		READ(report->protocol, head, 6);
		READ(report->remote, head, 8);
		READ(report->local, head, 24);
		length = 40;
	} else {
		return 0;
	}
	if (report->protocol == TCP || report->protocol == UDP)
		READ(ports, head, length);
	report->remote_port = bpf_ntohs(ports[0]);
	report->local_port = bpf_ntohs(ports[1]);
	if (sk)
		READ(port, sk, OFFSET_SOCK_LOCAL_PORT);
	report->incoming = !port || port != report->remote_port;
	if (!report->incoming) {
		u32 address[4];

		port = report->local_port;
		report->local_port = report->remote_port;
		report->remote_port = port;
		__builtin_memcpy(address, report->local, sizeof(address));
		__builtin_memcpy(report->local, report->remote, sizeof(address));
		__builtin_memcpy(report->remote, address, sizeof(address));
	}
	return wanted_port(report->local_port, report->remote_port);
}

static __always_inline u32 netns_of_packet(void *skb)
{
	void *device = 0, *net = 0;

	READ(device, skb, OFFSET_SKB_DEVICE);
	if (device)
		READ(net, device, OFFSET_DEVICE_NET);
	return netns_of(net);
}

int tproxy_state(void *ctx)
{
	struct report report = {.time = bpf_ktime_get_ns(), .kind = KIND_STATE};
	u64 key = FIELD(u64, FIELD_STATE_SOCK);
	u32 from = FIELD(u32, FIELD_STATE_OLD), to = FIELD(u32, FIELD_STATE_NEW);
	struct times *known, fresh = {};

	/* A socket that closes has given its port back already. */
	report.local_port = FIELD(u16, FIELD_STATE_LOCAL_PORT);
	if (FIELD(u16, FIELD_STATE_PROTOCOL) != TCP || !describe_sock(&report, (void *)key))
		return 0;
	report.old_state = from;
	report.new_state = to;
	if (to == SYN_SENT) {
		fresh.begun = report.time;
		tproxy_conns.update(&key, &fresh);
	} else if (to == ESTABLISHED) {
		known = tproxy_conns.lookup(&key);
		if (known && from == SYN_SENT) {
			report.connect = report.time - known->begun;
			count_slot(0, report.connect);
		}
		fresh.opened = report.time;
		tproxy_conns.update(&key, &fresh);
	} else if (to == CLOSE) {
		known = tproxy_conns.lookup(&key);
		if (known && known->opened) {
			report.open = report.time - known->opened;
			count_slot(1, report.open);
		}
		tproxy_conns.delete(&key);
	}
	send(&report);
	return 0;
}

int tproxy_retrans(void *ctx)
{
	struct report report = {.time = bpf_ktime_get_ns(), .kind = KIND_RETRANSMIT};

	if (describe_sock(&report, FIELD(void *, FIELD_RETRANSMIT_SOCK)))
		send(&report);
	return 0;
}

/* An answer to a SYN, again. The request begins like a socket. */
int tproxy_synack(void *ctx)
{
	struct report report = {.time = bpf_ktime_get_ns(), .kind = KIND_RETRANSMIT};

	if (describe_sock(&report, FIELD(void *, FIELD_SYNACK_REQUEST)))
		send(&report);
	return 0;
}

int tproxy_rst_sent(void *ctx)
{
	struct report report = {.time = bpf_ktime_get_ns(), .kind = KIND_RESET_SENT};
	void *sk = FIELD(void *, FIELD_RESET_SENT_SOCK), *skb = FIELD(void *, FIELD_RESET_SENT_PACKET);
	u16 ethertype = 0;

#ifdef FIELD_RESET_SENT_REASON
	report.reason = FIELD(u32, FIELD_RESET_SENT_REASON);
#endif
	if (sk) {
		if (!describe_sock(&report, sk))
			return 0;
	} else {
		/* An answer to a packet that no socket was there for. */
		report.netns = netns_of_packet(skb);
		READ(ethertype, skb, OFFSET_SKB_PROTOCOL);
		if (!wanted_netns(report.netns) || !describe_packet(&report, skb, bpf_ntohs(ethertype), 0))
			return 0;
		report.incoming = 0;
	}
	send(&report);
	return 0;
}

int tproxy_rst_recv(void *ctx)
{
	struct report report = {.time = bpf_ktime_get_ns(), .kind = KIND_RESET_RECEIVED, .incoming = 1};

	if (describe_sock(&report, FIELD(void *, FIELD_RESET_RECEIVED_SOCK)))
		send(&report);
	return 0;
}

int tproxy_drop(void *ctx)
{
	struct report report = {.time = bpf_ktime_get_ns(), .kind = KIND_DROP};
	void *skb = FIELD(void *, FIELD_DROP_PACKET), *sk = 0;
	u32 slot, length = 0;

	/* Not yet given to a device, or no longer: a socket that sends it tells whose it is. */
	report.netns = netns_of_packet(skb);
	READ(sk, skb, OFFSET_SKB_SOCK);
#ifdef FIELD_DROP_RECEIVER
	if (!sk)
		sk = FIELD(void *, FIELD_DROP_RECEIVER);
#endif
	if (!report.netns && sk)
		report.netns = netns_of_sock(sk);
	if (!wanted_netns(report.netns) || !describe_packet(&report, skb, FIELD(u16, FIELD_DROP_PROTOCOL), sk))
		return 0;
#ifdef FIELD_DROP_REASON
	report.reason = FIELD(u32, FIELD_DROP_REASON);
	/* Whoever closes a socket throws away the other end's FIN, which is nothing but its header, and read already. */
	READ(length, skb, OFFSET_SKB_LENGTH);
	if (report.reason == REASON_QUEUE_PURGE && !length)
		return 0;
#endif
	slot = report.reason < REASONS ? report.reason : REASONS - 1;
	tproxy_reasons.increment(slot);
	send(&report);
	return 0;
}
