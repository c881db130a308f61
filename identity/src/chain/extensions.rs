//! Extensions of a certificate (RFC 5280 §4.2): those that Go knows, read as Go's crypto/x509 reads them.

use super::certificate::Malformed;
use super::constraints::NameConstraints;
use super::der::{self, OCTET_STRING, OID, Reader, SEQUENCE, constructed, context};
use super::names::Names;

/// What the extensions say.
#[derive(Debug, Default)]
pub(super) struct Extensions<'a> {
    pub(super) basic_constraints: Option<BasicConstraints>,
    pub(super) key_usage: KeyUsage,
    /// The subject alternative name as it is written.
    pub(super) san: Option<&'a [u8]>,
    pub(super) names: Names<'a>,
    pub(super) name_constraints: Option<NameConstraints<'a>>,
    /// Empty where there is none.
    pub(super) subject_key: &'a [u8],
    /// Empty where there is none.
    pub(super) authority_key: &'a [u8],
    /// The purposes, by identifier.
    pub(super) purposes: Vec<&'a [u8]>,
    pub(super) policies: Vec<&'a [u8]>,
    /// From the issuer's policy to the subject's.
    pub(super) policy_mappings: Vec<(&'a [u8], &'a [u8])>,
    pub(super) require_explicit_policy: Option<i64>,
    pub(super) inhibit_policy_mapping: Option<i64>,
    pub(super) inhibit_any_policy: Option<i64>,
    /// There is a critical one that nobody here understands.
    pub(super) unhandled_critical: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct BasicConstraints {
    pub(super) is_ca: bool,
    pub(super) path_length: Option<u64>,
}

/// The bits of a key usage that matter.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KeyUsage {
    /// One of the nine bits is set.
    pub(super) any: bool,
    pub(super) cert_sign: bool,
    pub(super) crl_sign: bool,
}

impl<'a> Extensions<'a> {
    /// Reads one more.
    pub(super) fn add(&mut self, oid: &[u8], critical: bool, value: &'a [u8]) -> Result<(), Malformed> {
        let reader = Reader::new(value);
        let known = match *oid {
            [0x55, 0x1d, number] => self.add_standard(number, critical, value)?,
            _ if oid == AUTHORITY_INFO_ACCESS => {
                if critical {
                    return Err(Malformed("authority info access incorrectly marked critical"));
                }
                authority_info_access(reader).ok_or(Malformed("invalid authority info access"))?;
                true
            }
            _ => false,
        };
        self.unhandled_critical |= critical && !known;
        Ok(())
    }

    /// One of `id-ce` (2.5.29); false when it is not known, or what it says is not.
    fn add_standard(&mut self, number: u8, critical: bool, value: &'a [u8]) -> Result<bool, Malformed> {
        let mut reader = Reader::new(value);
        match number {
            14 if critical => return Err(Malformed("subject key identifier incorrectly marked critical")),
            14 => {
                let key = reader.content(OCTET_STRING);
                self.subject_key = key.ok_or(Malformed("invalid subject key identifier"))?;
            }
            15 => self.key_usage = key_usage(reader).ok_or(Malformed("invalid key usage"))?,
            17 => {
                self.san = Some(value);
                self.names = Names::parse(reader)?;
                return Ok(!self.names.is_empty());
            }
            19 => {
                let constraints = basic_constraints(reader);
                self.basic_constraints = Some(constraints.ok_or(Malformed("invalid basic constraints"))?);
            }
            30 => {
                let constraints = NameConstraints::parse(reader)?;
                let all_known = constraints.all_known;
                self.name_constraints = Some(constraints);
                return Ok(all_known);
            }
            31 => distribution_points(reader)?,
            32 | 33 | 36 | 54 => return self.add_policy(number, reader),
            35 if critical => return Err(Malformed("authority key identifier incorrectly marked critical")),
            35 => {
                let key = authority_key(reader).ok_or(Malformed("invalid authority key identifier"))?;
                self.authority_key = key;
            }
            37 => self.purposes = purposes(reader).ok_or(Malformed("invalid extended key usages"))?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn add_policy(&mut self, number: u8, mut reader: Reader<'a>) -> Result<bool, Malformed> {
        match number {
            32 => self.policies = policies(reader).ok_or(Malformed("invalid certificate policies"))?,
            33 => {
                let mappings = policy_mappings(reader);
                self.policy_mappings = mappings.ok_or(Malformed("invalid policy mappings extension"))?;
            }
            36 => {
                let invalid = Malformed("invalid policy constraints extension");
                let mut fields = reader.within(SEQUENCE).ok_or(invalid)?;
                let mut field = |number| match fields.is_next(context(number)) {
                    true => fields.int64(context(number)).ok_or(invalid).map(Some),
                    false => Ok(None),
                };
                self.require_explicit_policy = field(0)?;
                self.inhibit_policy_mapping = field(1)?;
            }
            54 => {
                let skip = reader.int64(der::INTEGER);
                self.inhibit_any_policy =
                    Some(skip.ok_or(Malformed("invalid inhibit any policy extension"))?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn basic_constraints(mut reader: Reader<'_>) -> Option<BasicConstraints> {
    let mut fields = reader.within(SEQUENCE)?;
    let is_ca = if fields.is_next(der::BOOLEAN) { fields.boolean()? } else { false };
    let path_length = match fields.is_next(der::INTEGER) {
        true => Some(u64::try_from(fields.int64(der::INTEGER)?).ok()?),
        false => None,
    };
    Some(BasicConstraints { is_ca, path_length })
}

fn key_usage(mut reader: Reader<'_>) -> Option<KeyUsage> {
    let bits = reader.bits()?;
    let any = (0..9).any(|bit| bits.is_set(bit));
    Some(KeyUsage { any, cert_sign: bits.is_set(5), crl_sign: bits.is_set(6) })
}

fn authority_key<'a>(mut reader: Reader<'a>) -> Option<&'a [u8]> {
    let mut fields = reader.within(SEQUENCE)?;
    if fields.is_next(context(0)) { fields.content(context(0)) } else { Some(&[]) }
}

/// The elements of a list, each read in the same way.
fn list<'a, T>(mut reader: Reader<'a>, mut read: impl FnMut(&mut Reader<'a>) -> Option<T>) -> Option<Vec<T>> {
    let mut fields = reader.within(SEQUENCE)?;
    let mut elements = Vec::new();
    while !fields.is_empty() {
        elements.push(read(&mut fields)?);
    }
    Some(elements)
}

fn purposes<'a>(reader: Reader<'a>) -> Option<Vec<&'a [u8]>> {
    list(reader, Reader::oid)
}

fn policies<'a>(reader: Reader<'a>) -> Option<Vec<&'a [u8]>> {
    let found =
        list(reader, |fields| fields.within(SEQUENCE)?.content(OID).filter(|policy| is_identifier(policy)))?;
    let mut sorted = found.clone();
    sorted.sort_unstable();
    sorted.is_sorted_by(|one, next| one != next).then_some(found)
}

fn policy_mappings<'a>(reader: Reader<'a>) -> Option<Vec<(&'a [u8], &'a [u8])>> {
    list(reader, |fields| {
        let mut pair = fields.within(SEQUENCE)?;
        Some((pair.content(OID)?, pair.content(OID)?))
    })
}

/// Whether each number of an OBJECT IDENTIFIER is as short as can be; it may be of any size.
fn is_identifier(oid: &[u8]) -> bool {
    let mut numbers = oid.split_inclusive(|byte| byte & 0x80 == 0);
    oid.last().is_some_and(|last| last & 0x80 == 0) && numbers.all(|number| number.first() != Some(&0x80))
}

fn distribution_points(reader: Reader<'_>) -> Result<(), Malformed> {
    let mut reader = reader;
    let mut points = reader.within(SEQUENCE).ok_or(Malformed("invalid CRL distribution points"))?;
    let invalid = Malformed("invalid CRL distribution point");
    while !points.is_empty() {
        let mut point = points.within(SEQUENCE).ok_or(invalid)?;
        let Some(mut name) = point.optional(constructed(0)).ok_or(invalid)? else { continue };
        let mut full = name.within(constructed(0)).ok_or(invalid)?;
        while full.is_next(context(6)) {
            full.content(context(6)).ok_or(invalid)?;
        }
    }
    Ok(())
}

fn authority_info_access(reader: Reader<'_>) -> Option<()> {
    list(reader, |fields| {
        let mut access = fields.within(SEQUENCE)?;
        access.oid()?;
        if access.is_next(context(6)) { access.content(context(6)).map(drop) } else { Some(()) }
    })
    .map(drop)
}

/// 1.3.6.1.5.5.7.1.1
const AUTHORITY_INFO_ACCESS: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 1, 1];
