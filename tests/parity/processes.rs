//! Who holds a connection, and what he may do: daemons, credentials, namespaces, filters, programs that are given a connection, libraries
//! and threads that come and go, signals.

use crate::bytes_and_order::rows;
use tandem_tests::{Carried, Pair};

rows! {
    a_child_goes_on_as_a_daemon => |pair| pair("holders").argument("daemon").passes("0,3,w,w").stays_carried();
    rights_are_given_up => |pair| pair("holders").argument("credentials").passes("0,3,w,w").stays_carried();
    namespaces_are_left => |pair| pair("holders").argument("namespaces").passes("0,3,w,w").stays_carried();
    /// popen, system and fork beside them.
    a_hundred_connections_that_exec_would_keep => |pair| {
        pair("holders").argument("popens").passes("w").stays_carried().failing_back(&[])
    };
    /// Where nothing of ours is: ld.so would say so.
    a_child_in_another_root => |pair| pair("holders").argument("chroot").passes("0,w,w").stays_carried();
    /// As pass_fds and file actions do: six ways.
    a_connection_given_to_a_program_by_a_number => |pair| {
        pair("given").argument("numbered").passes("w,w,w,w,w,w").failing_back(&[])
    };
    /// To oneself, to a child, to a program without Tandem.
    a_connection_given_by_scm_rights => |pair| pair("given").argument("rights").passes("w,w,w,3,3,3");
    seccomp_strict => |pair| pair("filtered").argument("strict").passes("0,3,w,w");
    seccomp_by_a_filter => |pair| pair("filtered").argument("filter").passes("0,3,w,w");
    seccomp_by_its_own_call => |pair| pair("filtered").argument("syscall").passes("0,3,w,w");
    seccomp_before_the_connection => |pair| {
        pair("filtered").argument("before").passes("-").carried(Carried::Never).failing_back(&[])
    };
    /// A container's filter, or a unit's.
    a_filter_that_kills_for_memory_files => |pair| confined(pair, &["memfd_create"], Carried::Never);
    a_filter_that_kills_for_events => |pair| confined(pair, &["eventfd2"], Carried::Never);
    a_filter_that_kills_for_advice => |pair| confined(pair, &["madvise"], Carried::Never);
    a_filter_that_kills_for_optional_calls => |pair| confined(pair, &["epoll_pwait2"], Carried::Never);
    a_filter_that_refuses_memory_files => |pair| confined(pair, &["memfd_create", "1"], Carried::Never);
    a_filter_that_refuses_optional_calls => |pair| confined(pair, &["io_setup", "1"], Carried::Yes);
    a_filter_that_forbids_what_nobody_calls => |pair| confined(pair, &["swapon"], Carried::Yes);
    calls_in_a_handler_on_the_connection_it_interrupts => |pair| {
        pair("in_handler").argument("does_not").passes("0,w,w").failing_back(&[50])
    };
    waiting_calls_in_a_handler_on_the_connection_it_interrupts => |pair| {
        pair("in_handler").argument("may").passes("0,w,w").failing_back(&[])
    };
    a_stream_of_stdio => |pair| pair("streams").argument("fdopen").passes("0,3,w,w");
    two_streams_of_stdio => |pair| pair("streams").argument("twice").passes("0,3,w,w");
    dprintf_to_a_connection => |pair| pair("streams").argument("dprintf").passes("0,3,w,w");
    a_number_that_stdio_closed_is_another_connection => |pair| pair("streams").argument("reused").passes("0,w,w");
    readiness_told_by_signals => |pair| pair("told_by_signal").passes("0,3,w,w");
    /// What it makes before our own start-up stays on TCP; what dlopen's copy makes is carried.
    a_library_uses_sockets_before_main_and_after => |pair| {
        pair("at_ends").argument("linked").passes("w").carried(Carried::Sent).failing_back(&[30])
    };
    threads_use_a_connection_when_they_end => |pair| {
        pair("at_ends").argument("threads").passes("0,3,w").failing_back(&[30])
    };
    a_listener_that_came_with_the_program => |pair| pair("activated").argument("listener").passes("0,3,w,w");
    a_connection_that_came_with_the_program => |pair| {
        pair("activated").argument("relay").passes("0,3,3").carried(Carried::Never).failing_back(&[])
    };
}

fn confined<'a>(pair: impl Fn(&'a str) -> Pair<'a>, words: &[&str], carried: Carried) -> Pair<'a> {
    let pair = pair("confined").passes("0,3,w,w").carried(carried);
    let pair = words.iter().fold(pair, |pair, &word| pair.argument(word));
    if carried == Carried::Never { pair.failing_back(&[]) } else { pair }
}
