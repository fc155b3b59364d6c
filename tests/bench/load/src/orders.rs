//! When to run, by stdin; what came of it, to stdout.

use std::io::{self, BufRead, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

/// Says "ready", then runs once for each line of seconds until stdin ends.
pub fn obey(mut run: impl FnMut(Duration) -> anyhow::Result<Value>) -> anyhow::Result<()> {
    say("ready")?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let seconds: f64 = line.trim().parse().with_context(|| format!("'{line}' is no number of seconds"))?;
        say(&run(Duration::from_secs_f64(seconds))?.to_string())?;
    }
    Ok(())
}

pub fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// How long each of many short things took.
pub struct Times {
    histogram: Histogram<u64>,
}

impl Times {
    pub fn new() -> Self {
        // From a nanosecond to a minute, to three digits.
        let histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order");
        Self { histogram }
    }

    pub fn note(&mut self, took: Duration) {
        self.histogram.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// p50, p99 and p99.9 in microseconds, each name behind `prefix`.
    pub fn tell(&self, prefix: &str, into: &mut Map<String, Value>) {
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            let microseconds = self.histogram.value_at_quantile(quantile) as f64 / 1e3;
            into.insert(format!("{prefix}{name}"), json!(microseconds));
        }
    }
}

/// The rate, the count, the bytes that the program itself sent and received, and the times.
pub fn outcome(started: Instant, count: u64, bytes: u64, times: &Times) -> Value {
    let mut fields = Map::new();
    fields.insert("rate".into(), json!(count as f64 / started.elapsed().as_secs_f64()));
    fields.insert("count".into(), json!(count));
    fields.insert("bytes".into(), json!(bytes));
    times.tell("", &mut fields);
    Value::Object(fields)
}
