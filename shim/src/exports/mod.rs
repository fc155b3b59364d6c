//! The hooks: C in, C out. `table` names them, `routes` decides whether a call concerns the switch, `variadic` has the few that
//! no fixed signature fits, `sharing` what makes children in this memory. The only place that knows redhook.
//!
//! redhook would catch a panic in a hook and repeat the real call. Here it has nothing to catch: a hook's body is a test and a
//! jump, and everything that could panic is behind `outcome::settle`. So the compiler folds redhook's `catch_unwind` and its
//! lazy look-up away, and what is left of a data call on a plain number is: bounds, one load, one compare, jump.

pub(crate) mod table;
pub(crate) mod types;

// A test binary that exported `close` would interpose itself.
#[cfg(not(test))]
mod hooks;
#[cfg(not(test))]
mod routes;
#[cfg(not(test))]
pub(crate) mod sharing;
#[cfg(not(test))]
mod variadic;
