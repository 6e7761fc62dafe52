//! The keys that updates are signed with, from a file as BIND's `tsig-keygen` prints it.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use domain::{
    tsig::{Algorithm, Key, KeyName},
    utils::base64,
};

use crate::secret_file::{self, SecretFileError};

/// Two, so that a key can be replaced while the primary still knows the old one, or not yet the new one.
const MOST: usize = 2;

/// Fewer bytes than this are no secret.
const SHORTEST: usize = 16;

/// One key, or two: then the second is for when the primary does not take the first.
pub struct Keys(Vec<Key>);

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// It cannot be read, or others can read it.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// It holds something else.
    #[error("the key file {path}, line {line}: {wrong}; make such a file with: {}", make(path))]
    Content {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong there; never says what stands there, which may be the secret.
        wrong: String,
    },
}

fn make(path: &Path) -> String {
    format!("(umask 077; tsig-keygen -a hmac-sha256 NAME > {})", path.display())
}

impl Keys {
    /// The keys in a file that nobody but its owner and group can read:
    /// `key "name" { algorithm hmac-sha256; secret "base64"; };`, once or twice.
    ///
    /// # Errors
    /// When it cannot be read, others can read it, or it holds something else.
    pub fn read(path: &Path) -> Result<Keys, KeysError> {
        let content = secret_file::read(path, "key file", &make(path))?;
        parse(&String::from_utf8_lossy(&content))
            .map(Keys)
            .map_err(|Wrong { line, wrong }| KeysError::Content { path: path.to_owned(), line, wrong })
    }

    /// Their names, in the order in which they are tried.
    pub fn names(&self) -> Vec<String> {
        self.iter().map(|key| key.name().to_string()).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keys").field(&self.names()).finish()
    }
}

/// What is wrong in which line.
#[derive(Debug)]
struct Wrong {
    line: usize,
    wrong: String,
}

fn parse(text: &str) -> Result<Vec<Key>, Wrong> {
    let mut tokens = Tokens::of(text)?;
    let mut keys = Vec::new();
    while !tokens.is_at_end() {
        if keys.len() == MOST {
            return Err(tokens.wrong(&format!("more than {MOST} keys")));
        }
        keys.push(key(&mut tokens)?);
    }
    if keys.is_empty() {
        return Err(tokens.wrong("there is no key"));
    }
    Ok(keys)
}

fn key(tokens: &mut Tokens) -> Result<Key, Wrong> {
    tokens.expect("key")?;
    let name = tokens.word("the key's name")?;
    let name = KeyName::from_str(&name).map_err(|_| tokens.wrong("the key's name is no DNS name"))?;
    tokens.expect("{")?;
    let (mut algorithm, mut secret) = (None, None);
    while !tokens.take("}") {
        if tokens.take("algorithm") {
            let name = tokens.word("an algorithm")?;
            algorithm = Some(self::algorithm(&name).ok_or_else(|| {
                tokens.wrong("the algorithm is none of hmac-sha256, hmac-sha384 and hmac-sha512")
            })?);
        } else if tokens.take("secret") {
            secret = Some(self::secret(tokens)?);
        } else {
            return Err(tokens.wrong("neither `algorithm` nor `secret` nor `}` stands where one should"));
        }
        tokens.expect(";")?;
    }
    tokens.expect(";")?;
    let algorithm = algorithm.ok_or_else(|| tokens.wrong("the key has no `algorithm`"))?;
    let secret = secret.ok_or_else(|| tokens.wrong("the key has no `secret`"))?;
    Key::new(algorithm, &secret, name, None, None).map_err(|error| tokens.wrong(&error.to_string()))
}

/// SHA-1 and MD5 are left out: RFC 8945 advises against them.
fn algorithm(name: &str) -> Option<Algorithm> {
    match name.trim_end_matches('.').to_ascii_lowercase().as_str() {
        "hmac-sha256" => Some(Algorithm::Sha256),
        "hmac-sha384" => Some(Algorithm::Sha384),
        "hmac-sha512" => Some(Algorithm::Sha512),
        _ => None,
    }
}

fn secret(tokens: &mut Tokens) -> Result<Vec<u8>, Wrong> {
    let text = tokens.word("a secret")?;
    // Its error would quote the secret.
    let secret: Vec<u8> = base64::decode(&text).map_err(|_| tokens.wrong("the secret is not base64"))?;
    if secret.len() < SHORTEST {
        return Err(tokens
            .wrong(&format!("the secret has {} bytes, and at least {SHORTEST} are needed", secret.len())));
    }
    Ok(secret)
}

/// Words and punctuation, each with its line.
struct Tokens {
    all: Vec<(usize, String)>,
    next: usize,
}

impl Tokens {
    fn of(text: &str) -> Result<Tokens, Wrong> {
        let mut all = Vec::new();
        let (mut rest, mut line) = (text, 1);
        while let Some(first) = rest.chars().next() {
            let unclosed = |what: &str| Wrong { line, wrong: format!("{what} is not closed") };
            let length = if rest.starts_with("/*") {
                rest.find("*/").ok_or_else(|| unclosed("a comment"))? + 2
            } else if rest.starts_with("//") || first == '#' {
                rest.find('\n').unwrap_or(rest.len())
            } else if first == '"' {
                let inside = rest[1..].find(['"', '\n']).unwrap_or(rest.len() - 1);
                if !rest[1 + inside..].starts_with('"') {
                    return Err(unclosed("a quotation"));
                }
                all.push((line, rest[1..=inside].to_owned()));
                inside + 2
            } else if first.is_whitespace() || matches!(first, '{' | '}' | ';') {
                if !first.is_whitespace() {
                    all.push((line, first.to_string()));
                }
                first.len_utf8()
            } else {
                // A secret may hold `//`: comments begin between words only.
                let ends = |c: char| c.is_whitespace() || matches!(c, '{' | '}' | ';' | '"' | '#');
                let length = rest.find(ends).unwrap_or(rest.len());
                all.push((line, rest[..length].to_owned()));
                length
            };
            let (passed, after) = rest.split_at(length);
            line += passed.matches('\n').count();
            rest = after;
        }
        Ok(Tokens { all, next: 0 })
    }

    fn is_at_end(&self) -> bool {
        self.next == self.all.len()
    }

    /// Goes on if `word` is next.
    fn take(&mut self, word: &str) -> bool {
        let is_next = self.all.get(self.next).is_some_and(|(_, next)| next == word);
        self.next += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, word: &str) -> Result<(), Wrong> {
        if self.take(word) {
            return Ok(());
        }
        // Where it is missing, not where the next one stands, which may be lines below.
        let line = self.line_of(self.next.saturating_sub(1));
        Err(Wrong { line, wrong: format!("`{word}` is missing") })
    }

    fn word(&mut self, what: &str) -> Result<String, Wrong> {
        match self.all.get(self.next) {
            Some((_, word)) if !matches!(word.as_str(), "{" | "}" | ";") => {
                self.next += 1;
                Ok(word.clone())
            }
            _ => Err(Wrong {
                line: self.line_of(self.next.saturating_sub(1)),
                wrong: format!("{what} is missing"),
            }),
        }
    }

    /// In the line of what is next or, at the end, of what was last.
    fn wrong(&self, wrong: &str) -> Wrong {
        Wrong { line: self.line_of(self.next), wrong: wrong.to_owned() }
    }

    fn line_of(&self, place: usize) -> usize {
        self.all.get(place).or(self.all.last()).map_or(1, |(line, _)| *line)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

    fn read(content: &str, mode: u32) -> Result<Keys, KeysError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        Keys::read(file.path())
    }

    fn block(name: &str, algorithm: &str) -> String {
        format!("key \"{name}\" {{\n\talgorithm {algorithm};\n\tsecret \"{SECRET}\";\n}};\n")
    }

    #[test]
    fn what_tsig_keygen_prints_is_read() {
        let keys = read(&block("usher-key", "hmac-sha256"), 0o600).unwrap();
        assert_eq!(keys.names(), ["usher-key"]);
        let both = block("new.example.test.", "HMAC-SHA512") + &block("old", "hmac-sha384");
        let keys = read(&both, 0o640).unwrap();
        assert_eq!(keys.names(), ["new.example.test", "old"]);
        let algorithms: Vec<_> = keys.iter().map(Key::algorithm).collect();
        assert_eq!(algorithms, [Algorithm::Sha512, Algorithm::Sha384]);
    }

    #[test]
    fn comments_order_and_quotes_do_not_matter() {
        let text = format!(
            "# one\n// two\n/* three\n key \"no\" {{ */ key usher {{ secret {SECRET}; // end\n algorithm \"hmac-sha256\"; }};"
        );
        assert_eq!(read(&text, 0o600).unwrap().names(), ["usher"]);
    }

    #[test]
    fn slashes_in_a_secret_are_no_comment() {
        let text = "key usher { algorithm hmac-sha256; secret ab//cdefabcdefabcdefabcdefabcdef; };";
        assert_eq!(read(text, 0o600).unwrap().names(), ["usher"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_without_the_secret() {
        let good = block("usher", "hmac-sha256");
        for (text, expected) in [
            (String::new(), "line 1: there is no key"),
            ("# nothing\n".to_owned(), "line 1: there is no key"),
            (good.replace("hmac-sha256", "hmac-md5"), "line 2: the algorithm is none of hmac-sha256"),
            (good.replace(SECRET, "!"), "line 3: the secret is not base64"),
            (good.replace(SECRET, "MDEy"), "line 3: the secret has 3 bytes, and at least 16"),
            (good.replace("\talgorithm hmac-sha256;\n", ""), "line 3: the key has no `algorithm`"),
            (good.replace("\tsecret ", "\tsecret; // "), "line 3: a secret is missing"),
            (good.replace("sha256;", "sha256"), "line 2: `;` is missing"),
            (good.replace("};", "}"), "line 4: `;` is missing"),
            (good.replace("};", ""), "line 3: neither `algorithm` nor"),
            (good.replace("=\";", "=;"), "line 3: a quotation is not closed"),
            (good.replace("key ", "/* "), "line 1: a comment is not closed"),
            (good.replace("key ", ""), "line 1: `key` is missing"),
            (good.replace("usher", "a..b"), "line 1: the key's name is no DNS name"),
            (good.repeat(3), "line 9: more than 2 keys"),
            (SECRET.to_owned(), "line 1: `key` is missing"),
        ] {
            let error = read(&text, 0o600).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
            assert!(error.contains("tsig-keygen -a hmac-sha256 NAME"), "{error}");
            assert!(!error.contains("MDEy"), "{error}");
        }
    }

    #[test]
    fn what_others_can_read_is_no_secret() {
        let open = read(&block("usher", "hmac-sha256"), 0o644).unwrap_err().to_string();
        assert!(open.contains("the key file /") && open.contains("chmod 600"), "{open}");
        let missing = Keys::read(Path::new("/nonexistent/key")).unwrap_err().to_string();
        assert!(missing.contains("cannot read the key file /nonexistent/key"), "{missing}");
        assert!(missing.contains("tsig-keygen"), "{missing}");
    }

    #[test]
    fn debug_output_shows_names_only() {
        let keys = read(&block("usher", "hmac-sha256"), 0o600).unwrap();
        assert_eq!(format!("{keys:?}"), "Keys([\"usher\"])");
    }
}
