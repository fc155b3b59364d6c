/* Calls about what is on its way, and full sockets. */

/* Writes until the socket takes no more. How much that is, is the buffers': only that it is within what TCP's defaults give. */
static void do_stuff(struct call *call)
{
    struct end *me = call->end;
    if (atomic_load(&me->stuffed)) { put(call, "once only"); return; }
    /* stuff hard: also what the kernel finds room for after a while */
    uint64_t n = 0;
    for (int look = has_word(word_of(call, 1), "hard") ? 12 : 1; look; look--)
        n += stuff(call->fd, n, 64 << 20, 2 + key_of(me), number_of(call, 1, 0) ? number_of(call, 1, 0) : 60000);
    atomic_store(&me->stuff_from, atomic_load(&me->sent));
    atomic_store(&me->stuffed, n);
    atomic_fetch_add(&me->sent, n);
    atomic_store(&me->full, atomic_load(&call->peer->rcvd) + 1);
    put(call, "%s", n < 4000 ? "hardly any" : n < 16 << 20 ? "some" : "no bound");
}
static bool as_sent(struct end *from, const char *bytes, uint64_t offset, long n)
{
    uint64_t first = atomic_load(&from->stuff_from), behind = first + atomic_load(&from->stuffed);
    for (long i = 0; i < n; i++, offset++) {
        bool stuffed = offset >= first && offset < behind;
        uint8_t wanted = stuffed ? byte_at(offset - first, 2 + key_of(from)) : byte_at(place_of(from, offset), key_of(from));
        if ((uint8_t)bytes[i] != wanted) return false;
    }
    return true;
}
/* Reads until all that was sent has come, or the end; never stuck. */
static void do_drain(struct call *call)
{
    struct end *me = call->end, *peer = call->peer;
    char *bytes = place(MOST);
    uint64_t deadline = now_us() + 3000000;
    bool fine = true;
    const char *end = "dry";
    while (now_us() < deadline) {
        uint64_t before = atomic_load(&me->rcvd);
        long n = recv(call->fd, bytes, MOST, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            /* A thread that waits for room may not have noticed yet that there is some. */
            if ((before == atomic_load(&peer->sent) && !atomic_load(&peer->sending)) || atomic_load(&peer->oob)) break;
            usleep(500);
            continue;
        }
        if (n <= 0) { end = n ? errno_name() : "the end"; break; }
        if (!atomic_load(&peer->oob)) fine &= as_sent(peer, bytes, before, n);
        atomic_fetch_add(&me->rcvd, n);
    }
    put(call, "%s, %lu left, %s", end, (unsigned long)on_the_way(peer, me), fine ? "right" : "WRONG");
}
static void do_fionread(struct call *call)
{
    int n = -1;
    int result = ioctl(call->fd, FIONREAD, &n);
    put_result(call, result);
    put(call, " %d", n);
}
/* What has not reached the peer's host. TCP says so when that has acknowledged it, at the latest 40 ms after: it is looked at
 * until it is 0, or for longer than that. After a reset the kernel says for ever what was not acknowledged then: whether that
 * was some is the delayed acknowledgement's timer's. */
static void do_outq(struct call *call)
{
    int n = -1, result = 0;
    for (int look = 0; look < 150 && !(result = ioctl(call->fd, TIOCOUTQ, &n)) && n; look++) usleep(1000);
    put_result(call, result);
    put(call, " %s", n < 0 ? "?" : kernel_knows(call->fd).state == 7 ? "over" : n ? "some" : "none");
}
static void do_atmark(struct call *call)
{
    int n = -1;
    put_result(call, ioctl(call->fd, SIOCATMARK, &n));
    put(call, " %d %d", n, sockatmark(call->fd));
}
/* A descriptor in a control message over TCP: not taken. */
static void do_cmsg(struct call *call)
{
    char room[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec part = { content(call, 3), 3 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) };
    memcpy(CMSG_DATA(header), &call->fd, sizeof(int));
    sent(call, sendmsg(call->fd, &message, MSG_NOSIGNAL), 0);
}
