//! Bytes and order.

use tandem_tests::{Carried, Pair};

macro_rules! rows {
    ($($(#[$doc:meta])* $name:ident => |$pair:ident| $body:expr;)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            let $pair = |program| Pair::new(stringify!($name), program);
            $body.run();
        }
    )*};
}
pub(crate) use rows;

rows! {
    /// recv(10, MSG_WAITALL) and SO_RCVLOWAT entered with 4 bytes there, 6 to come by another way.
    waitall_and_lowat_across_the_switch_over => |pair| pair("waitall").failing_back(&[3, 10]);
    /// PEEK that spans TCP's rest and the ring; PEEK loops; SO_PEEK_OFF; MSG_TRUNC.
    peeked_and_read_bytes_are_the_same => |pair| pair("peek").failing_back(&[3, 10]);
    two_threads_read_and_two_write_records => |pair| pair("threads").passes("0,2,3,4,w").failing_back(&[50, 500]);
    a_send_partly_done_while_the_switch_over_is_due => |pair| pair("partial_send").passes("0,1,2,3,w");
    both_ends_write_2_mb_before_either_reads => |pair| pair("both_write_first").passes("0,3,w");
    /// SO_SNDBUF of 8192: an option that has its own meaning, so it may stay on TCP.
    both_ends_write_85_kb_with_a_small_buffer => |pair| {
        pair("both_write_first").argument("small").passes("0,3,w").carried(Carried::Perhaps)
    };
    a_writer_without_a_reader_is_bounded => |pair| pair("bounded").passes("0,3,w");
    a_writer_without_a_reader_gives_up_by_its_user_timeout => |pair| pair("user_timeout").passes("0,3,w");
    a_child_that_runs_another_program => |pair| pair("still_carried").argument("exec").passes("w,w");
    children_by_vfork_and_clone_close_it => |pair| pair("bare_children").passes("0,3,w").failing_back(&[7]);
    an_option_set_to_what_it_was => |pair| pair("still_carried").argument("zero").passes("w,w");
    late_reply_after_shutdown_of_writing => |pair| pair("half_close").argument("late_reply");
    shutdown_of_reading => |pair| pair("half_close").argument("read_side");
    close_with_unread_data_resets => |pair| pair("half_close").argument("unread");
    linger_zero_resets => |pair| pair("half_close").argument("abortive");
    both_ends_shut_down_with_data_in_flight => |pair| pair("half_close").argument("both_ways");
    /// After write() has returned 1 MB; the kernel delivers it all, then EOF.
    writer_killed_after_writing => |pair| pair("killed").argument("writer_dies").passes("w").may_die();
    writer_killed_while_the_reader_reads => |pair| {
        pair("killed").argument("writer_dies_reader_reads").passes("w").may_die()
    };
    writer_killed_before_the_switch_over => |pair| {
        pair("killed").argument("writer_dies").passes("2").may_die().carried(Carried::Perhaps)
    };
    idle_peer_killed => |pair| pair("killed").argument("idle_peer_dies").passes("w").may_die();
    reader_killed_while_the_writer_waits_for_room => |pair| {
        pair("killed").argument("reader_dies_writer_waits").passes("w").may_die()
    };
    reader_killed_with_unread_data => |pair| pair("killed").argument("reader_dies_unread").passes("w").may_die();
    peer_killed_in_two_way_traffic => |pair| pair("killed").argument("dies_in_traffic").passes("w").may_die();
    /// By posix_spawn, vfork and fork, with unread bytes in the ring.
    a_socket_given_to_a_child_as_standard_input => |pair| pair("handed").argument("waits").passes("w,w,w");
    /// By posix_spawn, system and popen.
    a_standard_input_that_a_child_inherits => |pair| pair("handed").argument("inherited").passes("w,w,w");
    a_socket_given_to_a_child_after_the_peer_closed_it => |pair| pair("handed").argument("closes").passes("w,w,w");
    /// TCP's rest from before the switch-over is unread, too.
    a_socket_given_to_a_child_that_has_much_to_read => |pair| {
        pair("handed").argument("ahead").passes("0,0,0,1,2,3").carried(Carried::Sent)
    };
    exit_straight_after_write => |pair| pair("exits").argument("exit").passes("w").may_die();
    underscore_exit_straight_after_write => |pair| pair("exits").argument("_exit").passes("w").may_die();
    quick_exit_straight_after_write => |pair| pair("exits").argument("quick_exit").passes("w").may_die();
    abort_straight_after_write => |pair| pair("exits").argument("abort").passes("w").may_die();
    exec_straight_after_write => |pair| pair("exits").argument("exec").passes("w").may_die();
    return_from_main_straight_after_write => |pair| pair("exits").argument("return").passes("w");
    exit_before_the_switch_over => |pair| {
        pair("exits").argument("exit").passes("2").may_die().carried(Carried::Perhaps)
    };
    exit_before_a_late_reader_starts => |pair| {
        pair("exits").argument("exit").argument("late").passes("w").may_die()
    };
    exec_before_a_late_reader_starts => |pair| {
        pair("exits").argument("exec").argument("late").passes("w").may_die()
    };
    urgent_byte_in_the_sequence => |pair| pair("urgent");
    cork_across_the_switch_over => |pair| pair("cork");
    bytes_owed_after_fail_back_are_pumped_by_epoll_wait => |pair| {
        pair("owed").argument("epoll").passes("0,3,w").failing_back(&[3, 20])
    };
    bytes_owed_after_fail_back_are_pumped_by_poll => |pair| {
        pair("owed").argument("poll").passes("0,3,w").failing_back(&[3, 20])
    };
    bytes_owed_after_fail_back_are_pumped_by_select => |pair| {
        pair("owed").argument("select").passes("0,3,w").failing_back(&[3, 20])
    };
    many_rounds_of_switch_over_and_fail_back => |pair| {
        pair("rounds").argument("6000").passes("w").failing_back(&[5, 30]).least_fail_backs(40)
    };
}
