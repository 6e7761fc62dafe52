//! The deny list: prefixes that are denied, and prefixes within them that are allowed after all.

mod list;

use std::{fmt, net::IpAddr, str::FromStr};

use lb_common::Address;

pub use list::{AddError, Change, DenyList, RemoveError, Said, Source};

/// A network: an address and how many of its bits count. IPv4 networks in their mapped form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    octets: [u8; 16],
    length: u8,
}

/// Bits before the address in the mapped form of an IPv4 address.
const MAPPED_BITS: u8 = 96;

impl Prefix {
    /// The network of one address.
    pub fn of(address: IpAddr) -> Prefix {
        Prefix { octets: Address::from(address).octets_v6(), length: 128 }
    }

    /// The sixteen octets that the map holds.
    pub fn octets(&self) -> [u8; 16] {
        self.octets
    }

    /// How many of their bits count: 0 to 128.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// The network of this many bits that holds this one.
    pub(super) fn cut(&self, length: u8) -> Prefix {
        let free = host_bits(length);
        Prefix { octets: (u128::from_be_bytes(self.octets) & !free).to_be_bytes(), length }
    }

    /// The last address of the network.
    pub(super) fn last_octets(&self) -> [u8; 16] {
        (u128::from_be_bytes(self.octets) | host_bits(self.length)).to_be_bytes()
    }

    /// The address of a network, and its length as it is written.
    fn shown(&self) -> (IpAddr, u8) {
        let address = IpAddr::from(Address::v6(self.octets));
        let before = if address.is_ipv4() && self.length >= MAPPED_BITS { MAPPED_BITS } else { 0 };
        (address, self.length - before)
    }
}

/// The bits that do not count.
fn host_bits(length: u8) -> u128 {
    u128::MAX.checked_shr(u32::from(length)).unwrap_or(0)
}

/// What is said of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The network.
    pub prefix: Prefix,
    /// Denied, or allowed although a shorter prefix is denied.
    pub denied: bool,
}

impl Rule {
    /// What says the contrary of the same network.
    pub(super) fn contrary(self) -> Rule {
        Rule { denied: !self.denied, ..self }
    }
}

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
    HostBits(u8, Prefix, IpAddr),
}

impl RuleError {
    /// What to write instead.
    pub fn mend(&self) -> String {
        match self {
            RuleError::HostBits(_, network, address) => {
                format!("write \"{network}\" for the network, \"{address}\" for the one address")
            }
            RuleError::NoAddress | RuleError::Length(_) => {
                "write one such as \"198.51.100.0/24\" or, for what is allowed, \"!198.51.100.7\"".to_owned()
            }
        }
    }
}

impl FromStr for Prefix {
    type Err = RuleError;

    /// `198.51.100.0/24`, `2001:db8::/32`, or one address.
    fn from_str(text: &str) -> Result<Prefix, RuleError> {
        let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address.parse().map_err(|_| RuleError::NoAddress)?;
        let (most, before) = if address.is_ipv4() { (32, MAPPED_BITS) } else { (128, 0) };
        let length = match length {
            None => most,
            Some(length) => length.parse().ok().filter(|&l| l <= most).ok_or(RuleError::Length(most))?,
        };
        let written = Prefix { octets: Address::from(address).octets_v6(), length: before + length };
        let network = written.cut(written.length);
        if network != written {
            return Err(RuleError::HostBits(length, network, address));
        }
        Ok(network)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, length) = self.shown();
        write!(f, "{address}/{length}")
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    /// A prefix, or `!` and one for what is allowed.
    fn from_str(text: &str) -> Result<Rule, RuleError> {
        let (denied, network) = match text.strip_prefix('!') {
            Some(network) => (false, network.trim_start()),
            None => (true, text),
        };
        Ok(Rule { prefix: network.parse()?, denied })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.denied { "" } else { "!" }, self.prefix)
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
        for text in
            ["198.51.100.0/24", "!198.51.100.7/32", "2001:db8::/32", "0.0.0.0/0", "::/0", "!2001:db8::1/128"]
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
        let mended = |text: &str| {
            let error = text.parse::<Rule>().unwrap_err();
            format!("{error}; {}", error.mend())
        };
        assert_eq!(
            mended("!192.0.2.1/24"),
            "has bits set beyond its 24 bits; write \"192.0.2.0/24\" for the network, \"192.0.2.1\" for the one \
             address"
        );
        assert_eq!(
            mended("2001:db8::1/0"),
            "has bits set beyond its 0 bits; write \"::/0\" for the network, \"2001:db8::1\" for the one address"
        );
    }

    #[test]
    fn a_file_has_comments_and_tells_the_line_of_a_mistake() {
        let rules = parse_file("# bad people\n192.0.2.0/24  # since May\n\n!192.0.2.1\n").unwrap();
        assert_eq!(rules.iter().map(Rule::to_string).collect::<Vec<_>>(), ["192.0.2.0/24", "!192.0.2.1/32"]);
        assert_eq!(parse_file("\n192.0.2").unwrap_err(), (2, RuleError::NoAddress));
    }
}
