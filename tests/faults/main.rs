//! Death, idleness and cost: a killed peer, a hostile one, a killed policyd, silence, and what a program pays that has no use for Tandem.

mod death;
mod hostile;
mod idle;
mod library;
mod pass_through;
