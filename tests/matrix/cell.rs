//! What the table says of a row in one way.

use std::fmt::Write;

use tandem_tests::policyd::Status;

/// `12.3 MB by companion, 8 of 10 ends (few-calls 2)`.
pub fn cell(status: &Status) -> String {
    let mut text = if status.tx_companion > 0 {
        format!("{} by companion, {} of {} ends", bytes(status.tx_companion), status.carried, status.connections)
    } else {
        format!("TCP, {} ends", status.connections)
    };
    let reasons = reasons(status);
    if !reasons.is_empty() {
        let _ = write!(text, " ({})", reasons.join(", "));
    }
    text
}

/// The two that hold most connections, most first.
fn reasons(status: &Status) -> Vec<String> {
    let counted = status.whole.get("reasons").and_then(serde_json::Value::as_object);
    let mut all: Vec<_> = counted
        .into_iter()
        .flatten()
        .filter_map(|(reason, count)| Some((count.as_u64()?, reason)))
        .filter(|(count, _)| *count > 0)
        .collect();
    all.sort_by(|a, b| b.cmp(a));
    all.iter().take(2).map(|(count, reason)| format!("{reason} {count}")).collect()
}

fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{} kB", count / 1000),
        _ => format!("{} MB", count / 1_000_000),
    }
}
