//! A certificate (RFC 5280 §4.1), read as Go's `x509.ParseCertificate` reads one: what Go cannot read is refused.

use std::borrow::Cow;
use std::collections::BTreeSet;

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

use super::der::{self, OCTET_STRING, Reader, SEQUENCE, SET, constructed, context};
use super::extensions::Extensions;
use super::signature::{Algorithm, PublicKey};

/// One certificate, with what verification looks at.
#[derive(Debug)]
pub(super) struct Certificate<'a> {
    pub(super) raw: &'a [u8],
    /// What is signed.
    pub(super) tbs: &'a [u8],
    pub(super) algorithm: Algorithm,
    pub(super) signature: Cow<'a, [u8]>,
    pub(super) version: i64,
    pub(super) serial: &'a [u8],
    pub(super) issuer: &'a [u8],
    pub(super) subject: &'a [u8],
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
    pub(super) public_key_info: &'a [u8],
    /// `None`: of a kind that is not known.
    pub(super) key: Option<PublicKey<'a>>,
    pub(super) extensions: Extensions<'a>,
}

/// Why a certificate cannot be read, in Go's words where they are fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("x509: {0}")]
pub struct Malformed(pub(super) &'static str);

impl<'a> Certificate<'a> {
    /// Reads one certificate and nothing behind it.
    pub(super) fn parse(der: &'a [u8]) -> Result<Self, Malformed> {
        let mut outside = Reader::new(der);
        let whole = outside.element(SEQUENCE).ok_or(Malformed("malformed certificate"))?;
        let mut inside = Reader::new(whole.content);
        let tbs = inside.element(SEQUENCE).ok_or(Malformed("malformed tbs certificate"))?;
        let outer = inside.content(SEQUENCE).ok_or(Malformed("malformed algorithm identifier"))?;
        let mut fields = Reader::new(tbs.content);
        let version = version(&mut fields)?;
        let serial = serial(&mut fields)?;
        let algorithm =
            fields.content(SEQUENCE).ok_or(Malformed("malformed signature algorithm identifier"))?;
        if algorithm != outer {
            return Err(Malformed("inner and outer signature algorithm identifiers don't match"));
        }
        let algorithm = Algorithm::parse(Reader::new(algorithm))?;
        let issuer = name(&mut fields)?;
        let mut validity = fields.within(SEQUENCE).ok_or(Malformed("malformed validity"))?;
        let (not_before, not_after) = (moment(&mut validity)?, moment(&mut validity)?);
        let subject = name(&mut fields)?;
        let spki = fields.element(SEQUENCE).ok_or(Malformed("malformed spki"))?;
        let key = PublicKey::parse(Reader::new(spki.content))?;
        let extensions = extensions(&mut fields, version)?;
        let signature = inside.bits().ok_or(Malformed("malformed signature"))?.right_aligned();
        if !outside.is_empty() {
            return Err(Malformed("trailing data"));
        }
        Ok(Self {
            raw: whole.raw,
            tbs: tbs.raw,
            algorithm,
            signature,
            version,
            serial,
            issuer,
            subject,
            not_before,
            not_after,
            public_key_info: spki.raw,
            key,
            extensions,
        })
    }

    /// How messages name it: common name, else organisation, else serial number.
    pub(super) fn label(&self) -> String {
        let values = |attribute: &'static [u8]| attributes(self.subject, attribute);
        let common_name = values(COMMON_NAME).last().filter(|name| !name.is_empty());
        let found = common_name.or_else(|| values(ORGANIZATION).next());
        found.unwrap_or_else(|| format!("serial:{}", decimal(self.serial)))
    }
}

fn version(fields: &mut Reader<'_>) -> Result<i64, Malformed> {
    let malformed = Malformed("malformed version");
    let Some(mut explicit) = fields.optional(constructed(0)).ok_or(malformed)? else { return Ok(1) };
    match explicit.int64(der::INTEGER) {
        Some(0..=2) if !explicit.is_empty() => Err(malformed),
        Some(version @ 0..=2) => Ok(version + 1),
        Some(3..) => Err(Malformed("invalid version")),
        _ => Err(malformed),
    }
}

fn serial<'a>(fields: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let serial = fields.integer().ok_or(Malformed("malformed serial number"))?;
    if serial[0] & 0x80 != 0 {
        return Err(Malformed("negative serial number"));
    }
    Ok(serial)
}

/// A distinguished name, as it is written.
fn name<'a>(fields: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let element = fields.element(SEQUENCE).ok_or(Malformed("malformed issuer"))?;
    let mut sets = Reader::new(element.content);
    while !sets.is_empty() {
        let mut set = sets.within(SET).ok_or(Malformed("invalid RDNSequence"))?;
        while !set.is_empty() {
            let attribute = set.within(SEQUENCE);
            let mut attribute = attribute.ok_or(Malformed("invalid RDNSequence: invalid attribute"))?;
            attribute.oid().ok_or(Malformed("invalid RDNSequence: invalid attribute type"))?;
            let value = attribute.any().ok_or(Malformed("invalid RDNSequence: invalid attribute value"))?;
            text(value)?;
        }
    }
    Ok(element.raw)
}

/// A string of a name (X.690 §8.23).
fn text(value: der::Element<'_>) -> Result<Cow<'_, str>, Malformed> {
    let bytes = value.content;
    let ascii = |allowed: fn(&u8) -> bool| bytes.iter().all(allowed).then(|| String::from_utf8_lossy(bytes));
    let (text, wrong) = match value.tag {
        0x0c => (
            std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
            "invalid RDNSequence: invalid attribute value: invalid UTF-8 string",
        ),
        0x12 => (
            ascii(|b| b.is_ascii_digit() || *b == b' '),
            "invalid RDNSequence: invalid attribute value: invalid NumericString",
        ),
        0x13 => {
            (ascii(is_printable), "invalid RDNSequence: invalid attribute value: invalid PrintableString")
        }
        // Latin-1, as nearly everybody reads a T61String.
        0x14 => (Some(bytes.iter().copied().map(char::from).collect()), ""),
        0x16 => (ascii(u8::is_ascii), "invalid RDNSequence: invalid attribute value: invalid IA5String"),
        0x1e => {
            (bmp(bytes).map(Cow::Owned), "invalid RDNSequence: invalid attribute value: invalid BMPString")
        }
        _ => (None, "invalid RDNSequence: invalid attribute value: unsupported string type"),
    };
    text.ok_or(Malformed(wrong))
}

/// As X.680 has it, and `*` and `&`, which many put there.
fn is_printable(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b" '()+,-./:=?*&".contains(byte)
}

/// The Basic Multilingual Plane, without surrogates and noncharacters; a zero at the end is dropped.
fn bmp(bytes: &[u8]) -> Option<String> {
    if !bytes.len().is_multiple_of(2) {
        return None;
    }
    let bytes = bytes.strip_suffix(&[0, 0]).unwrap_or(bytes);
    let points = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let character = |point: u16| match point {
        0xfdd0..=0xfdef | 0xfffe | 0xffff => None,
        _ => char::from_u32(point.into()),
    };
    points.map(character).collect()
}

/// The values of one attribute of a name that has been read.
fn attributes<'a>(name: &'a [u8], attribute: &'static [u8]) -> impl Iterator<Item = String> + 'a {
    let mut sets = Reader::new(name).within(SEQUENCE);
    let mut set: Option<Reader<'a>> = None;
    std::iter::from_fn(move || {
        loop {
            if let Some(mut parts) = set.as_mut().and_then(|set| set.within(SEQUENCE)) {
                if parts.oid() == Some(attribute) {
                    return text(parts.any()?).ok().map(Cow::into_owned);
                }
            } else {
                set = Some(sets.as_mut()?.within(SET)?);
            }
        }
    })
}

/// A time of the validity (RFC 5280 §4.1.2.5); an offset is allowed, a fraction is not.
fn moment(fields: &mut Reader<'_>) -> Result<OffsetDateTime, Malformed> {
    let element = fields.any().ok_or(Malformed("unsupported time format"))?;
    match element.tag {
        UTC_TIME => utc_time(element.content).ok_or(Malformed("malformed UTCTime")),
        GENERALIZED_TIME => generalized_time(element.content).ok_or(Malformed("malformed GeneralizedTime")),
        _ => Err(Malformed("unsupported time format")),
    }
}

fn utc_time(text: &[u8]) -> Option<OffsetDateTime> {
    let (year, rest) = text.split_at_checked(2)?;
    let year: i32 = number(year)?;
    let year = if year < 50 { 2000 + year } else { 1900 + year };
    date_and_time(year, rest, true)
}

fn generalized_time(text: &[u8]) -> Option<OffsetDateTime> {
    let (year, rest) = text.split_at_checked(4)?;
    date_and_time(number(year)?, rest, false)
}

/// `MMDDhhmm`, seconds, and `Z` or an offset.
fn date_and_time(year: i32, text: &[u8], may_lack_seconds: bool) -> Option<OffsetDateTime> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits != 10 && !(digits == 8 && may_lack_seconds) {
        return None;
    }
    let (digits, zone) = text.split_at(digits);
    let pair = |at: usize| digits.get(at..at + 2).map_or(Some(0), number);
    let month = Month::try_from(pair(0)?).ok()?;
    let date = Date::from_calendar_date(year, month, pair(2)?).ok()?;
    let time = Time::from_hms(pair(4)?, pair(6)?, pair(8)?).ok()?;
    Some(PrimitiveDateTime::new(date, time).assume_offset(offset(zone)?))
}

/// `Z`, `+hhmm` or `-hhmm`; an offset of zero is written `Z`.
fn offset(zone: &[u8]) -> Option<UtcOffset> {
    let (sign, digits) = zone.split_first()?;
    if zone == b"Z" {
        return Some(UtcOffset::UTC);
    }
    let (hours, minutes) = digits.split_at_checked(2).filter(|(_, minutes)| minutes.len() == 2)?;
    let (hours, minutes): (i32, i32) = (number(hours)?, number(minutes)?);
    let seconds = (hours * 60 + minutes) * 60;
    let seconds = match sign {
        b'+' => seconds,
        b'-' => -seconds,
        _ => return None,
    };
    (hours <= 24 && minutes < 60 && seconds != 0).then(|| UtcOffset::from_whole_seconds(seconds).ok())?
}

fn number<N: std::str::FromStr>(digits: &[u8]) -> Option<N> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    text.parse().ok()
}

fn extensions<'a>(fields: &mut Reader<'a>, version: i64) -> Result<Extensions<'a>, Malformed> {
    let mut found = Extensions::default();
    if version < 2 {
        return Ok(found);
    }
    fields.optional(context(1)).ok_or(Malformed("malformed issuerUniqueID"))?;
    fields.optional(context(2)).ok_or(Malformed("malformed subjectUniqueID"))?;
    if version < 3 {
        return Ok(found);
    }
    let malformed = Malformed("malformed extensions");
    let Some(mut explicit) = fields.optional(constructed(3)).ok_or(malformed)? else { return Ok(found) };
    let mut list = explicit.within(SEQUENCE).ok_or(malformed)?;
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    while !list.is_empty() {
        let mut extension = list.within(SEQUENCE).ok_or(Malformed("malformed extension"))?;
        let oid = extension.oid().ok_or(Malformed("malformed extension OID field"))?;
        let critical = if extension.is_next(der::BOOLEAN) {
            extension.boolean().ok_or(Malformed("malformed extension critical field"))?
        } else {
            false
        };
        let value = extension.content(OCTET_STRING).ok_or(Malformed("malformed extension value field"))?;
        if !seen.insert(oid) {
            return Err(Malformed("certificate contains duplicate extension"));
        }
        all.push((oid, critical, value));
    }
    for (oid, critical, value) in all {
        found.add(oid, critical, value)?;
    }
    Ok(found)
}

/// An integer that is not negative, in decimal; a long one, which no authority gives, in hexadecimal.
fn decimal(bytes: &[u8]) -> String {
    if bytes.len() > LONGEST_DECIMAL {
        return bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    }
    let mut digits = vec![0u8];
    for byte in bytes {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            let value = u32::from(*digit) * 256 + carry;
            *digit = (value % 10) as u8;
            carry = value / 10;
        }
        while carry > 0 {
            digits.push((carry % 10) as u8);
            carry /= 10;
        }
    }
    digits.iter().rev().map(|digit| char::from(b'0' + digit)).collect()
}

const LONGEST_DECIMAL: usize = 64;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
/// 2.5.4.10
const ORGANIZATION: &[u8] = &[0x55, 4, 10];
