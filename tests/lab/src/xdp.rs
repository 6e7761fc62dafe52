//! The smallest XDP programs, "let every packet pass" and "let none pass", as object files that `ip link` loads.
//!
//! They are written here byte by byte so that a lab needs no compiler for BPF.

/// What becomes of every packet.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verdict {
    Drop = 1,
    Pass = 2,
}

/// Two instructions.
const CODE: usize = 16;

/// `r0 = VERDICT; exit`: one 8-byte instruction each.
fn instructions(verdict: Verdict) -> [u8; CODE] {
    [0xb7, 0, 0, 0, verdict as u8, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0]
}

/// Names of sections and symbols, each ended by a zero; `NAME_…` are positions in it.
const STRINGS: &[u8] = b"\0xdp\0.symtab\0.strtab\0each\0";
const NAME_XDP: u32 = 1;
const NAME_SYMTAB: u32 = 5;
const NAME_STRTAB: u32 = 13;
const NAME_EACH: u32 = 21;

/// Sizes that ELF fixes for 64-bit objects.
const HEADER: u64 = 64;
const SECTION_HEADER: u16 = 64;
const SYMBOL: u64 = 24;

/// The section that holds the program, as `ip link … sec` wants it.
pub(crate) const SECTION: &str = "xdp";

/// A relocatable ELF object for BPF (System V ABI, "Object files"): header, the program, two symbols,
/// strings, section headers.
pub(crate) fn object(verdict: Verdict) -> Vec<u8> {
    let (instructions, symbols) = (instructions(verdict), symbols());
    let code_at = HEADER;
    let symbols_at = code_at + CODE as u64;
    let strings_at = symbols_at + symbols.len() as u64;
    let sections_at = (strings_at + STRINGS.len() as u64).next_multiple_of(8);

    let mut object = header(sections_at);
    object.extend(instructions);
    object.extend(&symbols);
    object.extend(STRINGS);
    object.resize(usize::try_from(sections_at).unwrap_or_default(), 0);
    object.extend([0; SECTION_HEADER as usize]);
    // Type 1 is program data, flags 6 are "in memory, executable".
    object.extend(section(NAME_XDP, 1, 6, (code_at, CODE as u64), (0, 0), (8, 0)));
    // Type 2 is a symbol table; it names its strings' section (3) and its first global symbol (1).
    object.extend(section(NAME_SYMTAB, 2, 0, (symbols_at, symbols.len() as u64), (3, 1), (8, SYMBOL)));
    // Type 3 is a string table.
    object.extend(section(NAME_STRTAB, 3, 0, (strings_at, STRINGS.len() as u64), (0, 0), (1, 0)));
    object
}

fn header(sections_at: u64) -> Vec<u8> {
    // 64 bits, little endian, version 1.
    let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // A relocatable file (1) for BPF (247), version 1, no entry point and no program headers.
    header.extend([1_u16, 247].map(u16::to_le_bytes).concat());
    header.extend(1_u32.to_le_bytes());
    header.extend([0_u64, 0, sections_at].map(u64::to_le_bytes).concat());
    header.extend(0_u32.to_le_bytes());
    // Four section headers, the last of which describes their names.
    header.extend([64_u16, 0, 0, SECTION_HEADER, 4, 3].map(u16::to_le_bytes).concat());
    header
}

fn symbols() -> Vec<u8> {
    let mut symbols = vec![0; 24];
    symbols.extend(NAME_EACH.to_le_bytes());
    // A global function (0x12) in section 1.
    symbols.extend([0x12, 0, 1, 0]);
    symbols.extend([0_u64, CODE as u64].map(u64::to_le_bytes).concat());
    symbols
}

/// A section header; the pairs are (offset, size), (link, info) and (alignment, entry size).
fn section(
    name: u32,
    kind: u32,
    flags: u64,
    (offset, size): (u64, u64),
    (link, info): (u32, u32),
    (align, entry): (u64, u64),
) -> Vec<u8> {
    let mut header = [name, kind].map(u32::to_le_bytes).concat();
    header.extend([flags, 0, offset, size].map(u64::to_le_bytes).concat());
    header.extend([link, info].map(u32::to_le_bytes).concat());
    header.extend([align, entry].map(u64::to_le_bytes).concat());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_where_they_are_said_to_be() {
        for (at, name) in
            [(NAME_XDP, "xdp"), (NAME_SYMTAB, ".symtab"), (NAME_STRTAB, ".strtab"), (NAME_EACH, "each")]
        {
            assert!(STRINGS[at as usize..].starts_with(format!("{name}\0").as_bytes()), "{name}");
        }
    }

    #[test]
    fn section_headers_end_the_object() {
        let object = object(Verdict::Pass);
        let sections_at = u64::from_le_bytes(object[40..48].try_into().expect("8 bytes"));
        assert_eq!(object.len() as u64, sections_at + 4 * u64::from(SECTION_HEADER));
    }
}
