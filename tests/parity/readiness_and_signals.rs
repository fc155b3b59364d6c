//! Readiness and signals.

use crate::bytes_and_order::rows;
use tandem_tests::{Carried, Pair};

rows! {
    /// Handlers with SA_RESTART, without, with SO_RCVTIMEO, both kinds in one process, by signal(), sigset, siginterrupt.
    a_signal_under_a_blocking_receive => |pair| pair("signals").passes("0,w").limit(60).failing_back(&[]);
    a_restarting_signal_under_a_blocking_send => |pair| {
        pair("send_signals").argument("restart").passes("0,w").failing_back(&[])
    };
    an_interrupting_signal_under_a_blocking_send => |pair| {
        pair("send_signals").argument("interrupt").passes("0,w").failing_back(&[])
    };
    a_signal_under_a_partly_done_send => |pair| {
        pair("send_signals").argument("partial").passes("0,w").failing_back(&[])
    };
    stopped_and_continued_with_no_handler => |pair| pair("stopped").passes("0,3,w");
    a_receive_left_by_longjmp => |pair| pair("left_by_jump").passes("w,w,w,w");
    epoll_sets_nested_deep => |pair| pair("nested").passes("0,3,w");
    /// 64 threads on one set.
    one_of_many_epoll_waiters_wakes_by_edge => |pair| pair("one_wakes").argument("edge").passes("0,w").failing_back(&[]);
    one_of_many_epoll_waiters_wakes_by_oneshot => |pair| {
        pair("one_wakes").argument("oneshot").passes("0,w").failing_back(&[])
    };
    one_of_many_blocked_readers_wakes => |pair| pair("one_wakes").argument("recv").passes("0,w").failing_back(&[]);
    two_hundred_blocked_threads_one_message => |pair| pair("two_hundred").passes("w").failing_back(&[]);
    /// An idle writable anchor under a full ring.
    a_full_socket_sleeps_in_epoll_for_output => |pair| pair("full_epollout").passes("0,3,w");
    fin_while_bytes_are_unread => |pair| pair("fin_unread").passes("0,2,3,4,w");
    /// By a forked process that has no switch.
    a_shared_epoll_set_never_gives_foreign_data => |pair| {
        pair("shared_set").passes("0,w").carried(Carried::Perhaps)
    };
    a_set_that_a_forked_child_leaves_alone => |pair| pair("set_at_fork").argument("left").passes("w,w").stays_carried();
    a_set_that_a_forked_child_asks_once => |pair| pair("set_at_fork").argument("used").passes("0,w,w,w");
    epoll_exclusive_oneshot_edges_and_errors => |pair| pair("epoll_modes").passes("0,w").failing_back(&[]);
    epoll_edges_over_the_switch_over => |pair| {
        pair("epoll_modes").argument("tolerant").passes("1,2,3,4,6,w").failing_back(&[5, 20])
    };
    a_registered_number_is_closed_and_used_anew => |pair| pair("closed_number").passes("0,3,w,w");
    /// As nginx does with its upstreams.
    registered_before_it_is_connected => |pair| pair("before_connect").argument("epoll").passes("0,3,w,w").failing_back(&[]);
    doubled_before_it_is_connected => |pair| pair("before_connect").argument("dup").passes("0,3,w,w");
    a_fin_behind_more_than_the_buffer_holds_is_an_edge => |pair| pair("late_fin").passes("0,3,w,w");
    the_few_that_are_busy_starve_no_other => |pair| pair("few_busy").carried(Carried::Sent).failing_back(&[]);
    a_connection_passed_between_epoll_sets_in_turns => |pair| pair("turns").passes("0,3,w,w");
    /// ENOSYS, as an older kernel has it; EPERM, as a container's filter.
    waits_where_the_newest_calls_are_missing => |pair| pair("old_kernel").argument("38").passes("0,3,w");
    waits_where_the_newest_calls_are_forbidden => |pair| pair("old_kernel").argument("1").passes("0,3,w");
    select_near_its_limit_and_poll_with_doubles => |pair| pair("polls").passes("0,3,w");
}
