//! Reads the validity dates of a certificate. Parses only the part of its DER (RFC 5280, 4.1) that leads to them.
//!
//! webpki verifies certificates that a CA has signed. A pinned certificate may be self-signed, so it is verified by its
//! bytes and these dates instead. webpki does not return the dates.

use std::fmt;

/// A date and time of day, in UTC.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

/// The validity of a certificate, from `not_before` to `not_after`, both included.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: Moment,
    pub(crate) not_after: Moment,
    /// The certificate states no version, so it has version 1, and no extensions.
    pub(crate) is_version_1: bool,
}

impl Moment {
    /// The moment this number of seconds after the start of 1970.
    pub(crate) fn from_unix(seconds: u64) -> Self {
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(days);
        Self { year, month, day, hour: rest / 3600, minute: rest / 60 % 60, second: rest % 60 }
    }

    /// Parses a `Time` of a certificate. RFC 5280 requires seconds and UTC.
    fn parse(tag: u8, text: &[u8]) -> Option<Self> {
        let (year, rest) = match tag {
            UTC_TIME => {
                let year = number(text.get(..2)?)?;
                (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
            }
            GENERALIZED_TIME => (number(text.get(..4)?)?, text.get(4..)?),
            _ => return None,
        };
        let [a, b, c, d, e, f, g, h, i, j, b'Z'] = *rest else { return None };
        Some(Self {
            year,
            month: number(&[a, b])?,
            day: number(&[c, d])?,
            hour: number(&[e, f])?,
            minute: number(&[g, h])?,
            second: number(&[i, j])?,
        })
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, hour, minute, second } = self;
        write!(f, "{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

impl Validity {
    /// The validity of a certificate in DER; `None` if the bytes are not a certificate.
    pub(crate) fn of(certificate: &[u8]) -> Option<Self> {
        let (certificate, _) = expect(SEQUENCE, certificate)?;
        let (mut fields, _) = expect(SEQUENCE, certificate)?;
        let has_version = fields.first() == Some(&VERSION);
        if has_version {
            (_, fields) = expect(VERSION, fields)?;
        }
        (_, fields) = expect(INTEGER, fields)?;
        let (_, fields) = expect(SEQUENCE, fields)?;
        let (_, fields) = expect(SEQUENCE, fields)?;
        let (validity, _) = expect(SEQUENCE, fields)?;
        let (tag, not_before, validity) = element(validity)?;
        let not_before = Moment::parse(tag, not_before)?;
        let (tag, not_after, _) = element(validity)?;
        Some(Self { not_before, not_after: Moment::parse(tag, not_after)?, is_version_1: !has_version })
    }
}

fn expect(tag: u8, input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(input)?;
    (found == tag).then_some((content, rest))
}

/// The first element of DER: its tag, its content, and the bytes after it.
fn element(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = input.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn number(digits: &[u8]) -> Option<u64> {
    let all = digits.iter().all(u8::is_ascii_digit);
    all.then(|| digits.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0')))
}

/// The year, month and day for a number of days since the start of 1970. Internally the year begins in March, so that the
/// leap day is its last day.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + DAYS_TO_1970;
    let (era, of_era) = (days / DAYS_400_YEARS, days % DAYS_400_YEARS);
    let years = (of_era - of_era / 1460 + of_era / 36_524 - of_era / (DAYS_400_YEARS - 1)) / 365;
    let of_year = of_era - (365 * years + years / 4 - years / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + years + u64::from(month <= 2), month, day)
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The days from 1 March of the year 0 to the start of 1970.
const DAYS_TO_1970: u64 = 719_468;
const DAYS_400_YEARS: u64 = 146_097;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moment_from_unix_matches_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_709_251_200, "2024-03-01 00:00:00 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (4_102_444_799, "2099-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(Moment::from_unix(seconds).to_string(), text);
        }
    }

    #[test]
    fn moment_malformed_time_is_refused() {
        let parsed = |tag, text: &str| Moment::parse(tag, text.as_bytes()).map(|moment| moment.to_string());
        assert_eq!(parsed(UTC_TIME, "491231235959Z").as_deref(), Some("2049-12-31 23:59:59 UTC"));
        assert_eq!(parsed(UTC_TIME, "500101000000Z").as_deref(), Some("1950-01-01 00:00:00 UTC"));
        assert_eq!(parsed(GENERALIZED_TIME, "20500101000000Z").as_deref(), Some("2050-01-01 00:00:00 UTC"));
        for wrong in ["", "5", "500101000000", "5001010000Z", "50010100000xZ", "500101000000+0100"] {
            assert_eq!(parsed(UTC_TIME, wrong), None, "{wrong}");
        }
        assert_eq!(parsed(INTEGER, "500101000000Z"), None);
    }

    #[test]
    fn validity_of_truncated_certificate_is_none() {
        let mut params = rcgen::CertificateParams::new(vec!["node".to_owned()]).expect("the name is valid");
        params.not_before = rcgen::date_time_ymd(1999, 12, 31);
        params.not_after = rcgen::date_time_ymd(2051, 2, 3);
        let key = rcgen::KeyPair::generate().expect("the system provides random numbers");
        let certificate = params.self_signed(&key).expect("the parameters are valid");
        let der = certificate.der();
        let found = Validity::of(der).expect("a certificate has validity dates");
        assert_eq!(found.not_before.to_string(), "1999-12-31 00:00:00 UTC");
        assert_eq!(found.not_after.to_string(), "2051-02-03 00:00:00 UTC");
        for length in 0..der.len() {
            assert_eq!(Validity::of(&der[..length]), None, "{length} bytes");
        }
    }
}
