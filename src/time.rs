//! Wall-clock time as it stands in records: milliseconds since 1970.

use std::time::Duration;

/// Now.
pub fn now_ms() -> u64 {
    jiff::Timestamp::now().as_millisecond().unsigned_abs()
}

/// The same, as finely as the clock has it.
pub fn since_epoch() -> Duration {
    jiff::Timestamp::now().as_duration().unsigned_abs()
}

/// As RFC 3339, in UTC and to the second.
pub fn text(time_ms: u64) -> String {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(time_ms).unwrap_or(i64::MAX));
    time.map_or_else(|_| "?".into(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}
