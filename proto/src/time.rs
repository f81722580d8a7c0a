//! Between the wire's timestamps and the standard library's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

/// The last second a protobuf timestamp may hold: the end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// The wall clock now.
#[must_use]
pub fn now() -> Timestamp {
    from_system(SystemTime::now())
}

/// A time before 1970 becomes 1970: no clock of ours produces one.
#[must_use]
pub fn from_system(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

/// A malformed or negative timestamp becomes the nearest valid one.
#[must_use]
pub fn to_system(timestamp: &Timestamp) -> SystemTime {
    let seconds = u64::try_from(timestamp.seconds).unwrap_or(0).min(LAST_SECOND);
    let nanos = u32::try_from(timestamp.nanos).unwrap_or(0).min(999_999_999);
    UNIX_EPOCH + Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_the_wire_and_nonsense_is_tamed() {
        let time = UNIX_EPOCH + Duration::new(1_800_000_000, 123_456_789);
        assert_eq!(to_system(&from_system(time)), time);
        assert_eq!(to_system(&Timestamp { seconds: -5, nanos: -1 }), UNIX_EPOCH);
        let last = to_system(&Timestamp { seconds: i64::MAX, nanos: i32::MAX });
        assert_eq!(from_system(last), Timestamp { seconds: 253_402_300_799, nanos: 999_999_999 });
    }
}
