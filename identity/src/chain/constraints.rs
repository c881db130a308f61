//! Name constraints (RFC 5280 §4.2.1.10) as Go's crypto/x509 applies them: a URI by its host, a leading dot for the names
//! below alone, and every certificate of a chain against the constraints of those above it. Of several networks whose addresses
//! have bits beyond their masks, which RFC 5280 does not allow, Go overlooks some; here all count.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::certificate::{Certificate, Malformed};
use super::der::{Reader, SEQUENCE, constructed, context};
use super::names::{Mailbox, Names, Uri, ia5, is_domain};

/// What a CA says of the names below it.
#[derive(Debug)]
pub(super) struct NameConstraints<'a> {
    permitted: Subtrees<'a>,
    excluded: Subtrees<'a>,
    /// No name is of a kind that is not understood.
    pub(super) all_known: bool,
}

#[derive(Debug, Default)]
struct Subtrees<'a> {
    dns: Vec<&'a str>,
    emails: Vec<&'a str>,
    uris: Vec<&'a str>,
    networks: Vec<Network<'a>>,
}

#[derive(Debug)]
struct Network<'a> {
    address: &'a [u8],
    mask: &'a [u8],
}

/// Why a chain may not vouch for a name, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameRefusal {
    /// Names of this kind are limited to others.
    #[error("{kind} {name:?} is not permitted by any constraint")]
    NotPermitted {
        /// As Go calls it.
        kind: &'static str,
        /// The name in the certificate that the constraint forbids.
        name: String,
    },
    /// The name is among those that are excluded.
    #[error("{kind} {name:?} is excluded by constraint {by:?}")]
    Excluded {
        /// As Go calls it.
        kind: &'static str,
        /// Whose it is.
        name: String,
        /// The constraint as the authority's certificate has it.
        by: String,
    },
    /// Where URIs are constrained, each needs a host.
    #[error("URI with empty host ({0:?}) cannot be matched against constraints")]
    NoHost(String),
    /// An address is no domain.
    #[error("URI with IP ({0:?}) cannot be matched against constraints")]
    Address(String),
    /// A host with several colons.
    #[error("cannot parse URI host {0:?}: address {0}: too many colons in address")]
    Host(String),
    /// What is before the port is no domain name.
    #[error("x509: internal error: URI SAN {0:?} failed to parse")]
    Uri(String),
    /// No domain name.
    #[error("x509: cannot parse dnsName {0:?}")]
    Dns(String),
    /// No email address.
    #[error("cannot parse rfc822Name {0:?}")]
    Mailbox(String),
    /// There are more names and constraints than anybody needs.
    #[error("too many names and constraints")]
    TooMany,
}

impl<'a> NameConstraints<'a> {
    pub(super) fn parse(mut reader: Reader<'a>) -> Result<Self, Malformed> {
        let invalid = Malformed("invalid NameConstraints extension");
        let mut lists = reader.within(SEQUENCE).filter(|_| reader.is_empty()).ok_or(invalid)?;
        let permitted = lists.optional(constructed(0)).ok_or(invalid)?;
        let excluded = lists.optional(constructed(1)).ok_or(invalid)?;
        if !lists.is_empty() {
            return Err(invalid);
        }
        let nothing = |list: &Option<Reader<'_>>| list.is_none_or(Reader::is_empty);
        if nothing(&permitted) && nothing(&excluded) {
            return Err(Malformed("empty name constraints extension"));
        }
        let mut all_known = true;
        let mut read = |list| Subtrees::parse(list, &mut all_known);
        let (permitted, excluded) = (read(permitted)?, read(excluded)?);
        Ok(Self { permitted, excluded, all_known })
    }

    fn check(&self, names: &Parsed<'_>, work: &mut usize) -> Result<(), NameRefusal> {
        let addresses = Lists::new("IP address", &self.permitted.networks, &self.excluded.networks);
        for address in &names.names.addresses {
            let name = || ip(address).map_or_else(String::new, |ip| ip.to_string());
            addresses.check(work, name, |network, _| network.contains(address), Network::show)?;
        }
        let domains = Lists::new("DNS name", &self.permitted.dns, &self.excluded.dns);
        for name in &names.names.dns {
            if !is_domain(name, false) {
                return Err(NameRefusal::Dns((*name).to_owned()));
            }
            domains.check(work, || (*name).to_owned(), |by, how| covers(by, name, how), show)?;
        }
        let hosts = Lists::new("URI", &self.permitted.uris, &self.excluded.uris);
        for (uri, host) in &names.hosts {
            if !is_domain(host, false) {
                return Err(NameRefusal::Uri(uri.text.to_owned()));
            }
            hosts.check(work, || uri.text.to_owned(), |by, how| covers(by, host, how), show)?;
        }
        let emails = Lists::new("email address", &self.permitted.emails, &self.excluded.emails);
        for mailbox in &names.mailboxes {
            emails.check(
                work,
                || mailbox.to_string(),
                |by, how| covers_mailbox(by, mailbox, how),
                show_mailbox,
            )?;
        }
        Ok(())
    }
}

/// Verifies the names of each certificate, leaf first, against the constraints of those behind it.
pub(super) fn check_chain(chain: &[&Certificate<'_>]) -> Result<(), NameRefusal> {
    let mut work = MOST_COMPARISONS;
    for (at, certificate) in chain.iter().enumerate() {
        if certificate.extensions.san.is_none() {
            continue;
        }
        let above = chain[at + 1..].iter().filter_map(|above| above.extensions.name_constraints.as_ref());
        let mut above = above.peekable();
        if above.peek().is_none() {
            return Ok(());
        }
        let names = Parsed::of(&certificate.extensions.names)?;
        above.try_for_each(|constraints| constraints.check(&names, &mut work))?;
    }
    Ok(())
}

/// Names, and what of them is compared.
struct Parsed<'a> {
    names: &'a Names<'a>,
    hosts: Vec<(&'a Uri<'a>, String)>,
    mailboxes: Vec<Mailbox>,
}

impl<'a> Parsed<'a> {
    fn of(names: &'a Names<'a>) -> Result<Self, NameRefusal> {
        let hosts = names.uris.iter().map(|uri| Ok((uri, domain(uri)?)));
        let mailbox =
            |text: &&str| Mailbox::parse(text).ok_or_else(|| NameRefusal::Mailbox((*text).to_owned()));
        Ok(Self {
            names,
            hosts: hosts.collect::<Result<_, _>>()?,
            mailboxes: names.emails.iter().map(mailbox).collect::<Result<_, _>>()?,
        })
    }
}

/// The host without its port. An address has no place in a constraint.
fn domain(uri: &Uri<'_>) -> Result<String, NameRefusal> {
    let host = &*uri.host;
    if host.is_empty() {
        return Err(NameRefusal::NoHost(uri.text.to_owned()));
    }
    let name = match host.rsplit_once(':') {
        Some((name, _)) if !host.ends_with(']') => {
            let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
            match bare {
                Some(literal) => literal,
                None if name.contains(':') => return Err(NameRefusal::Host(host.to_owned())),
                None => name,
            }
        }
        _ => host,
    };
    let is_literal = name.starts_with('[') && name.ends_with(']');
    let without_zone = name.split_once('%').filter(|(address, _)| address.contains(':'));
    let address = without_zone.map_or(name, |(address, _)| address);
    if is_literal || address.parse::<IpAddr>().is_ok() {
        return Err(NameRefusal::Address(uri.text.to_owned()));
    }
    Ok(name.to_ascii_lowercase())
}

/// The constraints on names of one kind.
struct Lists<'s, C> {
    kind: &'static str,
    permitted: &'s [C],
    excluded: &'s [C],
}

/// What a constraint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Permits,
    Excludes,
}

impl<'s, C> Lists<'s, C> {
    fn new(kind: &'static str, permitted: &'s [C], excluded: &'s [C]) -> Self {
        Self { kind, permitted, excluded }
    }

    /// Verifies one name. `work` is the number of comparisons that the chain has left.
    fn check(
        &self,
        work: &mut usize,
        name: impl Fn() -> String,
        matches: impl Fn(&C, How) -> bool,
        show: impl Fn(&C) -> String,
    ) -> Result<(), NameRefusal> {
        let (kind, count) = (self.kind, self.permitted.len() + self.excluded.len());
        *work = work.checked_sub(count).ok_or(NameRefusal::TooMany)?;
        if !self.permitted.is_empty() && !self.permitted.iter().any(|one| matches(one, How::Permits)) {
            return Err(NameRefusal::NotPermitted { kind, name: name() });
        }
        match self.excluded.iter().find(|one| matches(one, How::Excludes)) {
            Some(by) => Err(NameRefusal::Excluded { kind, name: name(), by: show(by) }),
            None => Ok(()),
        }
    }
}

fn show(constraint: &&str) -> String {
    (*constraint).to_owned()
}

fn show_mailbox(constraint: &&str) -> String {
    Mailbox::parse(constraint).map_or_else(|| show(constraint), |mailbox| mailbox.to_string())
}

/// Whether a constraint covers a domain name. What excludes a name excludes the wildcards beside it too.
fn covers(constraint: &str, name: &str, how: How) -> bool {
    let below = |name: &str| name.find('.').map_or_else(String::new, |dot| name[dot..].to_ascii_lowercase());
    let has_suffix = || {
        let Some(before) = name.len().checked_sub(constraint.len()) else { return false };
        let (front, end) = name.as_bytes().split_at(before);
        end.eq_ignore_ascii_case(constraint.as_bytes())
            && (front.is_empty() || front.ends_with(b".") || constraint.starts_with('.'))
    };
    let is_beside = || how == How::Excludes && name.starts_with('*') && !below(name).is_empty();
    constraint.is_empty() || has_suffix() || is_beside() && below(name) == below(constraint)
}

/// A constraint with an `@` is one mailbox, another one is a domain.
fn covers_mailbox(constraint: &str, mailbox: &Mailbox, how: How) -> bool {
    if constraint.contains('@') {
        Mailbox::parse(constraint).as_ref() == Some(mailbox)
    } else {
        covers(constraint, &mailbox.domain, how)
    }
}

impl<'a> Subtrees<'a> {
    fn parse(list: Option<Reader<'a>>, all_known: &mut bool) -> Result<Self, Malformed> {
        let mut trees = Self::default();
        let Some(mut list) = list else { return Ok(trees) };
        while !list.is_empty() {
            let base = list.within(SEQUENCE).and_then(|mut tree| tree.any());
            let base = base.ok_or(Malformed("invalid NameConstraints extension"))?;
            match base.tag {
                DNS => trees.dns.push(domain_constraint(base.content, "failed to parse dnsName constraint")?),
                EMAIL => trees.emails.push(email_constraint(base.content)?),
                URI => {
                    let domain = domain_constraint(base.content, "failed to parse URI constraint")?;
                    if domain.parse::<IpAddr>().is_ok() {
                        return Err(Malformed("failed to parse URI constraint: cannot be IP address"));
                    }
                    trees.uris.push(domain);
                }
                IP => trees.networks.push(Network::parse(base.content)?),
                _ => *all_known = false,
            }
        }
        Ok(trees)
    }
}

fn domain_constraint<'a>(bytes: &'a [u8], wrong: &'static str) -> Result<&'a str, Malformed> {
    let text = ia5(bytes).ok_or(Malformed("invalid constraint value"))?;
    if is_domain(text, true) { Ok(text) } else { Err(Malformed(wrong)) }
}

fn email_constraint(bytes: &[u8]) -> Result<&str, Malformed> {
    let text = ia5(bytes).ok_or(Malformed("invalid constraint value"))?;
    let fits = if text.contains('@') { Mailbox::parse(text).is_some() } else { is_domain(text, true) };
    if fits { Ok(text) } else { Err(Malformed("failed to parse rfc822Name constraint")) }
}

impl<'a> Network<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if !matches!(bytes.len(), 8 | 32) {
            return Err(Malformed("IP constraint contained value of wrong length"));
        }
        let (address, mask) = bytes.split_at(bytes.len() / 2);
        let mut behind_ones = mask.iter().skip_while(|byte| **byte == 0xff);
        let is_front = behind_ones.next().is_none_or(|byte| byte.leading_ones() == byte.count_ones());
        if !is_front || behind_ones.any(|byte| *byte != 0) {
            return Err(Malformed("IP constraint contained invalid mask"));
        }
        Ok(Self { address, mask })
    }

    /// Go compares an IPv4 address in an IPv6 one with such networks alone.
    fn contains(&self, address: &[u8]) -> bool {
        let is_mapped = |bytes: &[u8]| bytes.starts_with(MAPPED);
        let bits = self.address.iter().zip(self.mask).zip(address);
        self.address.len() == address.len()
            && is_mapped(self.address) == is_mapped(address)
            && bits.into_iter().all(|((ours, mask), theirs)| (ours ^ theirs) & mask == 0)
    }

    fn show(&self) -> String {
        let ones = self.mask.iter().map(|byte| byte.count_ones()).sum::<u32>();
        ip(self.address).map_or_else(String::new, |address| format!("{address}/{ones}"))
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).map(|bytes| IpAddr::from(Ipv4Addr::from(bytes)));
    let v6 = || <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).to_canonical());
    v4().or_else(|_| v6()).ok()
}

/// As many as Go once allowed in a chain; nobody needs so many.
const MOST_COMPARISONS: usize = 250_000;
/// An IPv4 address in an IPv6 one.
const MAPPED: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
const EMAIL: u8 = context(1);
const DNS: u8 = context(2);
const URI: u8 = context(6);
const IP: u8 = context(7);
