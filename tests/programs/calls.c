/* Carries out schedules of calls on the two ends of a connection, one call at a time, and writes down what each gave.
 *
 *   calls alone|server|client DIRECTORY WARM FILE FIRST
 *
 * FILE holds cases; DIRECTORY/calls is the memory that all processes share: whose turn it is, what is known of the ends, and
 * the transcript (struct board). A case is a line `== NAME` and a call a line: `ACTOR[DESCRIPTOR][&THREAD] CALL ARGUMENT...`.
 * Actors: a the connecting end, b the accepting one, c and d children that those forked, l the listener, x both at once.
 * A case without a `connect` starts with a connection that has made WARM ping-pongs (`w`: until it is carried).
 *
 * Calls are made in the schedule's order by whichever process its actor is. Before each of them the kernel has been given the
 * time to bring what the other end sent: see settle(). With TANDEM_TESTS_PAUSE_MS a wire that nobody can ask is given so many
 * milliseconds, too. */
#include "common.h"
#include "calls_board.h"
#include "calls_data.h"
#include "calls_queue.h"
#include "calls_ready.h"
#include "calls_life.h"

static const struct { const char *name; void (*body)(struct call *call); } table[] = {
    /* data */
    { "send", do_send }, { "write", do_write }, { "writev", do_writev }, { "sendmsg", do_sendmsg }, { "sendto", do_sendto },
    { "sendmmsg", do_sendmmsg }, { "pwritev2", do_pwritev2 }, { "pwrite", do_pwrite }, { "sendfile", do_sendfile },
    { "splice_out", do_splice_out }, { "splice_in", do_splice_in }, { "tee", do_tee }, { "vmsplice", do_vmsplice },
    { "dprintf", do_dprintf }, { "recv", do_recv },
    { "read", do_read }, { "readv", do_readv }, { "recvmsg", do_recvmsg }, { "recvfrom", do_recvfrom },
    { "recvmmsg", do_recvmmsg }, { "preadv2", do_preadv2 }, { "pread", do_pread }, { "stuff", do_stuff }, { "drain", do_drain },
    { "fionread", do_fionread }, { "outq", do_outq }, { "atmark", do_atmark }, { "badsend", do_badsend }, { "badrecv", do_badrecv },
    { "cmsg", do_cmsg },
    /* readiness */
    { "poll", do_poll }, { "ppoll", do_ppoll }, { "polls", do_polls }, { "select", do_select }, { "pselect", do_pselect },
    { "epoll", do_epoll }, { "epoll_wait", do_epoll_wait }, { "epoll_pwait2", do_epoll_pwait2 }, { "epoll_close", do_epoll_close },
    { "epoll_nest", do_epoll_nest }, { "epoll_poll", do_epoll_poll },
    /* the socket's life */
    { "shutdown", do_shutdown }, { "close", do_close }, { "dup", do_dup }, { "dup2", do_dup2 }, { "dupfd", do_dupfd },
    { "fork", do_fork }, { "exit", do_exit },
    { "set", do_set }, { "get", do_get }, { "nonblock", do_nonblock }, { "fionbio", do_fionbio }, { "state", do_state },
    { "names", do_names }, { "connect", do_connect }, { "accept", do_accept }, { "bind", do_bind }, { "listen", do_listen },
    { "join", do_join }, { "signal", do_signal }, { "handler", do_handler }, { "handled", do_handled }, { "nap", do_nap },
    { "cancel", do_cancel }, { "fstat", do_fstat }, { "lseek", do_lseek }, { "getfl", do_getfl }, { "popen", do_popen },
    { "close_range", do_close_range }, { "same", do_same },
};

void make_call(struct call *call)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (!strcmp(call->op->words[0], table[i].name)) {
            table[i].body(call);
            return;
        }
    put(call, "no such call");
}

static unsigned pause_us;

/* False: this is the child that it made. */
static bool perform(struct op *op, int number)
{
    struct call call = { .op = op };
    find_descriptor(&call);
    if (pause_us) usleep(pause_us);
    if (call.fd >= 0 && op->actor != 'l') settle(&call), settle_companion(&call);
    if (op->thread >= 0) {
        begin_thread(&call);
    } else {
        make_call(&call);
    }
    if (just_forked) return just_forked = false;
    write_down("%d %s -> %s\n", number, op->text, call.out);
    publish_kernel();
    return true;
}

static void carry_out(struct schedule *schedule)
{
    if (roles & ROLE_A) write_down("== %s\n", schedule->name);
    bool connects = prepare(schedule);
    if (!connects) warm_both(default_warm);
    for (int i = 0; i < schedule->count; i++) {
        struct op *op = &schedule->ops[i];
        uint32_t turn = turn_base + i;
        if (op->actor == 'x') {
            await_turn(turn);
            warm_both(op->count > 1 ? op->words[1] : default_warm);
            if (roles & ROLE_A) write_down("%d %s -> 0\n", i, op->text), pass_turn(turn + 1);
            continue;
        }
        if (!mine(op->actor, i)) continue;
        await_turn(turn);
        atomic_store(&board->at, i + 1);
        if (perform(op, i)) pass_turn(turn + 1);
    }
    await_turn(turn_base + schedule->count);
    if (is_child) leave_child();
    clean_up();
    turn_base += schedule->count;
    all_meet();
}

int main(int argc, char **argv)
{
    begin(argc, argv);
    open_board(argv[1], argv[2], argv[3]);
    if (getenv("TANDEM_TESTS_PAUSE_MS")) pause_us = 1000 * atoi(getenv("TANDEM_TESTS_PAUSE_MS"));
    struct schedule *list = read_schedules(args[0]);
    int first = atoi(args[1]);
    for (int i = 0; list[i].name; i++)
        if (i >= first) {
            if (roles & ROLE_A) atomic_store(&board->case_number, i);
            atomic_store(&board->at, 0);
            carry_out(&list[i]);
        }
    atomic_store(&board->done, 1);
    return 0;
}
