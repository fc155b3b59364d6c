//! The hard cases, a named test a row: the same program natively and preloaded, every way, the complete outcome compared.

mod bytes_and_order;
mod hosts;
mod limits;
mod meeting;
mod processes;
mod readiness_and_signals;
