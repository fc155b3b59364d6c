//! Which signal handlers restart an interrupted call.

/// A handler was set, or a signal's interrupting was. Called in signal handlers too.
pub fn changed() {
    crate::signals::changed();
}
