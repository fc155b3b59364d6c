//! The table's rows, made into exported functions.

use super::table::table;

/// What every hook's module sees.
mod prelude {
    pub(super) use super::super::routes::*;
    pub(super) use super::super::types::*;
    pub(super) use crate::calls::{self, lifecycle, options, process, programs, readiness, transfer};
    pub(super) use crate::{epoll, outcome, real, switch};
}

macro_rules! hooks {
    ($($route:ident($($r:ident),*) fn $name:ident($($v:ident: $t:ty),*) -> $ret:ty => $($h:ident)::+ $(($($a:expr),*))?;)*) => {
        $(
            #[allow(non_snake_case, non_upper_case_globals, non_camel_case_types, dead_code, unused_imports)]
            mod $name {
                use super::prelude::*;

                redhook::hook! {
                    unsafe fn $name($($v: $t),*) -> $ret => hook {
                        #[allow(unused_unsafe, clippy::undocumented_unsafe_blocks)]
                        // SAFETY: the application's own arguments, passed on as they came.
                        unsafe { body!($route($($r),*) $name($($v: $t),*) -> $ret, $($h)::+ $(($($a),*))?) }
                    }
                }

                cold!($route($($r),*) $name($($v: $t),*) -> $ret, $($h)::+ $(($($a),*))?);
            }
        )*
    };
}

/// A hook's fast path. What is not plain goes to `cold`, which is out of line and cannot unwind.
macro_rules! body {
    (data($($r:ident),*) $($rest:tt)*) => { route!(($(concerns_data($r))||*) $($rest)*) };
    (takes($fd:ident, $($r:ident),*) $name:ident($($v:ident: $t:ty),*) $($rest:tt)*) => {
        if concerns_data($fd) { at_once($($v),*) } else { real::tail::$name($($v),*) }
    };
    (gives($fd:ident, $($r:ident),*) $name:ident($($v:ident: $t:ty),*) $($rest:tt)*) => {
        if concerns_data($fd) { at_once($($v),*) } else { real::tail::$name($($v),*) }
    };
    (registers($set:ident, $operation:ident, $fd:ident, $event:ident) $name:ident($($v:ident: $t:ty),*) $($rest:tt)*) => {
        if concerns_life($set) || concerns_life($fd) { at_once($($v),*) } else { real::tail::$name($($v),*) }
    };
    (waits($set:ident, $($r:ident),*) $name:ident($($v:ident: $t:ty),*) $($rest:tt)*) => {
        if concerns_data($set) { at_once($($v),*) } else { real::tail::$name($($v),*) }
    };
    (gives_parts($fd:ident, $($r:ident),*) $name:ident($($v:ident: $t:ty),*) $($rest:tt)*) => {
        if concerns_data($fd) { at_once($($v),*) } else { real::tail::$name($($v),*) }
    };
    (gives_file($out:ident, $input:ident, $size:ident) $name:ident($($v:ident: $t:ty),*) $($rest:tt)*) => {
        if concerns_data($out) || concerns_data($input) { at_once($($v),*) } else { real::tail::$name($($v),*) }
    };
    (life($($r:ident),*) $($rest:tt)*) => { route!(($(concerns_life($r))||*) $($rest)*) };
    (device($($r:ident),*) $($rest:tt)*) => { route!(($(concerns_life($r))||*) $($rest)*) };
    (names($($r:ident),*) $($rest:tt)*) => { route!((names($($r),*)) $($rest)*) };
    (sends($($r:ident),*) $($rest:tt)*) => { route!((sends($($r),*)) $($rest)*) };
    (sends_many($($r:ident),*) $($rest:tt)*) => { route!((sends_many($($r),*)) $($rest)*) };
    (polls($($r:ident),*) $($rest:tt)*) => { route!((polls($($r),*)) $($rest)*) };
    (selects($($r:ident),*) $($rest:tt)*) => { route!((selects($($r),*)) $($rest)*) };
    (stream($($r:ident),*) $($rest:tt)*) => { route!((stream($($r),*)) $($rest)*) };
    (aio($($r:ident),*) $($rest:tt)*) => { route!((aio($($r),*)) $($rest)*) };
    (aio_list($($r:ident),*) $($rest:tt)*) => { route!((aio_list($($r),*)) $($rest)*) };
    (numbered($($r:ident),*) $($rest:tt)*) => { route!((numbered($($r),*)) $($rest)*) };
    (makes($($r:ident),*) $name:ident($($v:ident: $t:ty),*) $($rest:tt)*) => {
        if started() { at_once($($v),*) } else { real::tail::$name($($v),*) }
    };
    (accepts($($r:ident),*) $name:ident($($v:ident: $t:ty),*) $($rest:tt)*) => {
        if started() { at_once($($v),*) } else { real::tail::$name($($v),*) }
    };
    (joins($fd:ident, $($r:ident),*) $name:ident($($v:ident: $t:ty),*) $($rest:tt)*) => {
        if concerns_life($fd) { at_once($($v),*) } else { real::tail::$name($($v),*) }
    };
    (ends($fd:ident) $name:ident($($v:ident: $t:ty),*) $($rest:tt)*) => {
        if concerns_life($fd) { at_once($($v),*) } else { real::tail::$name($($v),*) }
    };
    (always() $($rest:tt)*) => { route!((started()) $($rest)*) };
    (controls($fd:ident, $command:ident, $argument:ident) $name:ident($($v:ident: $t:ty),*) $($rest:tt)*) => {
        if concerns_life($fd) || doubles($command) { at_once($($v),*) } else { real::tail::$name($($v),*) }
    };
    (sets($fd:ident, $($r:ident),*) $name:ident($($v:ident: $t:ty),*) $($rest:tt)*) => {
        if concerns_life($fd) { at_once($($v),*) } else { real::tail::$name($($v),*) }
    };
    (dups($($r:ident),*) $name:ident($($v:ident: $t:ty),*) $($rest:tt)*) => {
        if $(concerns_life($r))||* { cold($($v),*) } else { fresh(real::tail::$name($($v),*)) }
    };
    (opens() $name:ident($($v:ident: $t:ty),*) $($rest:tt)*) => { fresh(real::tail::$name($($v),*)) };
    (opens_two($pair:ident) $name:ident($($v:ident: $t:ty),*) $($rest:tt)*) => {{
        let result = real::tail::$name($($v),*);
        if result == 0 { fresh_pair($pair) }
        result
    }};
    (after() $name:ident($($v:ident: $t:ty),*) -> $ret:ty, $($h:ident)::+ ()) => {{
        let result = real::tail::$name($($v),*);
        told();
        result
    }};
}

macro_rules! route {
    (($($test:tt)*) $name:ident($($v:ident: $t:ty),*) $($rest:tt)*) => {
        if $($test)* { cold($($v),*) } else { real::tail::$name($($v),*) }
    };
}

/// A hook's slow path: asks the handler, and makes the real call where it says bypass.
macro_rules! cold {
    (opens($($r:ident),*) $($rest:tt)*) => {};
    (opens_two($($r:ident),*) $($rest:tt)*) => {};
    (after() $name:ident $args:tt -> $ret:ty, $($h:ident)::+ ()) => {
        #[inline(never)]
        extern "C" fn told() {
            outcome::note(stringify!($name), $($h)::+);
        }
    };
    (dups($old:ident $(, $new:ident)?) $name:ident $args:tt -> $ret:ty, $($h:tt)*) => {
        slow!("C" (is_hidden($old)) (fresh) $name $args -> $ret, $args $($h)*);
    };
    (controls($fd:ident, $command:ident, $argument:ident) $name:ident($($v:ident: $t:ty),*) -> $ret:ty, $($h:tt)*) => {
        before!((calls::at_once::has_a_mode($fd, $command, $argument).then(|| real::$name($($v),*))) ($($v: $t),*) -> $ret);
        slow!("C-unwind" (is_hidden($fd)) (fresh_if_doubled $command) $name($($v: $t),*) -> $ret, ($($v: $t),*) $($h)*);
    };
    (sets($fd:ident, $level:ident, $option:ident) $name:ident($($v:ident: $t:ty),*) -> $ret:ty, $($h:tt)*) => {
        before!((calls::at_once::sets_for_the_kernel($fd, $level, $option).then(|| real::$name($($v),*))) ($($v: $t),*) -> $ret);
        slow!("C-unwind" (is_hidden($fd)) () $name($($v: $t),*) -> $ret, ($($v: $t),*) $($h)*);
    };
    (data($($r:ident),*) $name:ident $args:tt -> $ret:ty, $($h:tt)*) => {
        slow!("C" ($(is_hidden($r))||*) () $name $args -> $ret, $args $($h)*);
    };
    (takes($fd:ident, $buffer:ident, $size:ident $(, $flags:ident)?) $name:ident($($v:ident: $t:ty),*) -> $ret:ty, $($h:tt)*) => {
        before!((switch::at_once::receive(
            $fd, $buffer.cast(), $size, 0 $(| $flags)?, || real::$name($($v),*)
        )) ($($v: $t),*) -> $ret);
        slow!("C-unwind" (is_hidden($fd)) () $name($($v: $t),*) -> $ret, ($($v: $t),*) $($h)*);
    };
    (gives($fd:ident, $buffer:ident, $size:ident $(, $flags:ident)?) $name:ident($($v:ident: $t:ty),*) -> $ret:ty, $($h:tt)*) => {
        before!((switch::at_once::send(
            $fd, $buffer.cast(), $size, 0 $(| $flags)?, || real::$name($($v),*)
        )) ($($v: $t),*) -> $ret);
        slow!("C-unwind" (is_hidden($fd)) () $name($($v: $t),*) -> $ret, ($($v: $t),*) $($h)*);
    };
    (gives_parts($fd:ident, $parts:ident, $count:ident) $name:ident($($v:ident: $t:ty),*) -> $ret:ty, $($h:tt)*) => {
        before!((switch::at_once::send_parts($fd, $parts, $count, || real::$name($($v),*))) ($($v: $t),*) -> $ret);
        slow!("C-unwind" (is_hidden($fd)) () $name($($v: $t),*) -> $ret, ($($v: $t),*) $($h)*);
    };
    (gives_file($out:ident, $input:ident, $size:ident) $name:ident($($v:ident: $t:ty),*) -> $ret:ty, $($h:tt)*) => {
        before!((switch::at_once::send_file($out, $input, $size, || real::$name($($v),*))) ($($v: $t),*) -> $ret);
        slow!("C-unwind" (is_hidden($out) || is_hidden($input)) () $name($($v: $t),*) -> $ret, ($($v: $t),*) $($h)*);
    };
    (registers($set:ident, $operation:ident, $fd:ident, $event:ident) $name:ident $args:tt -> $ret:ty, $($h:tt)*) => {
        before!((epoll::at_once::control($set, $operation, $fd, $event)) $args -> $ret);
        slow!("C-unwind" (is_hidden($set) || is_hidden($fd)) () $name $args -> $ret, $args $($h)*);
    };
    (waits($set:ident, $events:ident, $count:ident, $timeout:ident $(, $mask:ident)?) $name:ident($($v:ident: $t:ty),*) -> $ret:ty, $($h:tt)*) => {
        before!((epoll::at_once::wait(
            $set, $events, $count, epoll::Limit::Milliseconds($timeout), mask!($($mask)?), || real::$name($($v),*)
        )) ($($v: $t),*) -> $ret);
        slow!("C-unwind" (is_hidden($set)) () $name($($v: $t),*) -> $ret, ($($v: $t),*) $($h)*);
    };
    (makes($($r:ident),*) $name:ident($($v:ident: $t:ty),*) -> $ret:ty, $($h:tt)*) => {
        before!((calls::at_once::socket($($r),*, || real::$name($($v),*))) ($($v: $t),*) -> $ret);
        slow!("C-unwind" (false) () $name($($v: $t),*) -> $ret, ($($v: $t),*) $($h)*);
    };
    (accepts($fd:ident) $name:ident($($v:ident: $t:ty),*) -> $ret:ty, $($h:tt)*) => {
        before!((calls::at_once::accept($fd, || real::$name($($v),*))) ($($v: $t),*) -> $ret);
        slow!("C-unwind" (false) () $name($($v: $t),*) -> $ret, ($($v: $t),*) $($h)*);
    };
    (joins($fd:ident, $($r:ident),*) $name:ident($($v:ident: $t:ty),*) -> $ret:ty, $($h:tt)*) => {
        before!((calls::at_once::connect($fd, $($r),*, || real::$name($($v),*))) ($($v: $t),*) -> $ret);
        slow!("C-unwind" (is_hidden($fd)) () $name($($v: $t),*) -> $ret, ($($v: $t),*) $($h)*);
    };
    (ends($fd:ident) $name:ident($($v:ident: $t:ty),*) -> $ret:ty, $($h:tt)*) => {
        before!((calls::at_once::close($fd).then(|| real::$name($($v),*))) ($($v: $t),*) -> $ret);
        slow!("C-unwind" (is_hidden($fd)) () $name($($v: $t),*) -> $ret, ($($v: $t),*) $($h)*);
    };
    (life($($r:ident),*) $name:ident $args:tt -> $ret:ty, $($h:tt)*) => {
        slow!("C" ($(is_hidden($r))||*) () $name $args -> $ret, $args $($h)*);
    };
    (device($($r:ident),*) $name:ident $args:tt -> $ret:ty, $($h:tt)*) => {
        slow!("C" ($(is_hidden_from_devices($r))||*) () $name $args -> $ret, $args $($h)*);
    };
    (names($fd:ident, $($r:ident),*) $name:ident $args:tt -> $ret:ty, $($h:tt)*) => {
        slow!("C" (is_hidden($fd)) () $name $args -> $ret, $args $($h)*);
    };
    (sends($fd:ident, $($r:ident),*) $name:ident $args:tt -> $ret:ty, $($h:tt)*) => {
        slow!("C" (is_hidden($fd)) () $name $args -> $ret, $args $($h)*);
    };
    (sends_many($fd:ident, $($r:ident),*) $name:ident $args:tt -> $ret:ty, $($h:tt)*) => {
        slow!("C" (is_hidden($fd)) () $name $args -> $ret, $args $($h)*);
    };
    ($route:ident($($r:ident),*) $name:ident $args:tt -> $ret:ty, $($h:tt)*) => {
        slow!("C" (false) () $name $args -> $ret, $args $($h)*);
    };
}

/// What can be done at once is, without a handler. Out of line: a plain descriptor's call needs no frame. Nothing but a cancelled
/// thread unwinds through it, and it has a table of the calls that may: so `cold` is said to be one of them.
macro_rules! before {
    (($($try:tt)*) ($($v:ident: $t:ty),*) -> $ret:ty) => {
        #[inline(never)]
        #[allow(unused_unsafe)]
        unsafe extern "C" fn at_once($($v: $t),*) -> $ret {
            // SAFETY: the application's own arguments, as they came.
            unsafe { match $($try)* { Some(result) => result, None => cold($($v),*) } }
        }
    };
}

/// A signal set to wait with, or none.
macro_rules! mask {
    () => {
        std::ptr::null()
    };
    ($mask:ident) => {
        $mask
    };
}

macro_rules! slow {
    ($abi:literal ($($hidden:tt)*) $then:tt $name:ident($($v:ident: $t:ty),*) -> $ret:ty, $all:tt $($h:ident)::+ $(($($a:expr),*))?) => {
        #[cold]
        #[inline(never)]
        #[allow(unused_unsafe)]
        unsafe extern $abi fn cold($($v: $t),*) -> $ret {
            if $($hidden)* {
                outcome::set_errno(libc::EBADF);
                return <$ret as outcome::Returned>::FAILURE;
            }
            // SAFETY: the application's own arguments, passed on as they came.
            let handler = || unsafe { call!($all $($h)::+ $(($($a),*))?) };
            match outcome::settle(stringify!($name), handler) {
                Some(result) => result,
                // SAFETY: as above.
                None => unsafe { bypass!($then $name($($v),*)) },
            }
        }
    };
}

macro_rules! bypass {
    (() $name:ident $args:tt) => { real::$name $args };
    ((fresh) $name:ident $args:tt) => { fresh(real::$name $args) };
    ((fresh_if_doubled $command:ident) $name:ident $args:tt) => {{
        let result = real::$name $args;
        if doubles($command) { fresh(result) } else { result }
    }};
}

/// A handler named without arguments gets the call's own.
macro_rules! call {
    (($($v:ident: $t:ty),*) $($h:ident)::+) => { $($h)::+($($v),*) };
    ($all:tt $($h:ident)::+ ($($a:expr),*)) => { $($h)::+($($a),*) };
}

table!(hooks);
