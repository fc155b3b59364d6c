//! memcached with a client that checks every value.

use tandem_tests::apps::each_way;
use tandem_tests::process::system_program;
use tandem_tests::{Launch, Way};

use crate::{python, whole};

#[test]
fn memcached_every_value_right() {
    each_way("memcached_every_value_right", &Way::four_and_failing_back(50), |field| {
        let port = field.port.to_string();
        let launch = Launch::new("memcached", system_program("memcached"));
        let launch =
            launch.args(["-l", "127.0.0.1", "-p", &port, "-U", "0", "-u", "root", "-t", "2", "-m", "512", "-I", "4m"]);
        let server = field.serve(launch);
        let outcome = field.ask(python("load", "memcached_load.py").args([&port, "5", "60"]), 90);
        let mut seen = whole("load", &outcome.succeeded());
        seen.push(field.stop(server, libc::SIGTERM));
        seen
    });
}
