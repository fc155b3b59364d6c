//! Every call, natively and under Tandem: cases of calls on the two ends of a connection, the complete outcome compared.
//!
//! - `schedule`, `runner`: what a case is; running cases in one of the ways (`programs/calls.c` carries them out)
//! - `named`: the cases that have a name (`cases/*.calls`, and those that `matrix` makes), and the known deviations
//! - `between`: both, with the ends on two hosts
//! - `random`: cases out of `generate`, and what `shrink` makes of one that deviates

mod between;
mod generate;
mod matrix;
mod named;
mod random;
mod runner;
mod schedule;
mod shrink;
