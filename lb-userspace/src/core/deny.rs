//! The deny list: prefixes that are denied, and prefixes within them that are allowed after all.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr, sync::Arc};

use lb_common::Address;

/// A network: an address and how many of its bits count. IPv4 networks in their mapped form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    octets: [u8; 16],
    length: u8,
}

/// Bits before the address in the mapped form of an IPv4 address.
const MAPPED_BITS: u8 = 96;

impl Prefix {
    /// The sixteen octets that the map holds.
    pub fn octets(&self) -> [u8; 16] {
        self.octets
    }

    /// How many of their bits count: 0 to 128.
    pub fn length(&self) -> u8 {
        self.length
    }
}

/// What is said of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The network.
    pub prefix: Prefix,
    /// Denied, or allowed although a shorter prefix is denied.
    pub denied: bool,
}

/// Whether each network is denied. The longest prefix that holds a client decides.
pub type DenyList = Arc<BTreeMap<Prefix, bool>>;

/// Why a text is no [`Rule`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// No address before the `/`.
    #[error("is not an address or prefix")]
    NoAddress,
    /// More bits than the address has, or no number.
    #[error("has no prefix length from 0 to {0}")]
    Length(u8),
    /// Bits are set that do not count.
    #[error("has bits set beyond its {0} bits")]
    HostBits(u8),
}

impl FromStr for Rule {
    type Err = RuleError;

    /// `198.51.100.0/24`, `2001:db8::/32`, one address, or `!` and one of these for what is allowed.
    fn from_str(text: &str) -> Result<Rule, RuleError> {
        let (denied, network) = match text.strip_prefix('!') {
            Some(network) => (false, network.trim_start()),
            None => (true, text),
        };
        let (address, length) = network.split_once('/').map_or((network, None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address.parse().map_err(|_| RuleError::NoAddress)?;
        let (most, before) = if address.is_ipv4() { (32, MAPPED_BITS) } else { (128, 0) };
        let length = match length {
            None => most,
            Some(length) => length.parse().ok().filter(|&l| l <= most).ok_or(RuleError::Length(most))?,
        };
        let octets = Address::from(address).octets_v6();
        let bits = u128::from_be_bytes(octets);
        if bits.checked_shl(u32::from(before + length)).unwrap_or(0) != 0 {
            return Err(RuleError::HostBits(length));
        }
        Ok(Rule { prefix: Prefix { octets, length: before + length }, denied })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = IpAddr::from(Address::v6(self.prefix.octets));
        let length = if address.is_ipv4() { self.prefix.length - MAPPED_BITS } else { self.prefix.length };
        write!(f, "{}{address}/{length}", if self.denied { "" } else { "!" })
    }
}

/// A file's rules, one a line; what follows a `#` is a comment. An error with its line's number, from 1.
pub fn parse_file(text: &str) -> Result<Vec<Rule>, (usize, RuleError)> {
    let mut rules = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split_once('#').map_or(line, |(rule, _)| rule).trim();
        if !line.is_empty() {
            rules.push(line.parse().map_err(|error| (number, error))?);
        }
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_shown_as_they_are_written() {
        for text in ["198.51.100.0/24", "!198.51.100.7/32", "2001:db8::/32", "0.0.0.0/0", "!2001:db8::1/128"]
        {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.1".parse::<Rule>(), "192.0.2.1/32".parse());
    }

    #[test]
    fn what_is_no_rule_says_why() {
        let error = |text: &str| text.parse::<Rule>().unwrap_err().to_string();
        assert_eq!(error("example.test"), "is not an address or prefix");
        assert_eq!(error("192.0.2.0/33"), "has no prefix length from 0 to 32");
        assert_eq!(error("2001:db8::/x"), "has no prefix length from 0 to 128");
        assert_eq!(error("192.0.2.1/24"), "has bits set beyond its 24 bits");
    }

    #[test]
    fn a_file_has_comments_and_tells_the_line_of_a_mistake() {
        let rules = parse_file("# bad people\n192.0.2.0/24  # since May\n\n!192.0.2.1\n").unwrap();
        assert_eq!(rules.iter().map(Rule::to_string).collect::<Vec<_>>(), ["192.0.2.0/24", "!192.0.2.1/32"]);
        assert_eq!(parse_file("\n192.0.2").unwrap_err(), (2, RuleError::NoAddress));
    }
}
