//! Bodies of MessagePack that exhaust the memory or stack of a careless decoder, or that are malformed.

/// The bodies, each with a description.
pub(crate) fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    // {"Nodes": [{"Nodes": [...
    let nested_enum: Vec<u8> = b"\x81\xa5Nodes\x91".iter().copied().cycle().take(8 * 7_500).collect();
    let claims: Vec<u8> = b"\xdd\xff\xff\xff\xff".iter().copied().cycle().take(8_000).collect();
    let maps: Vec<u8> = b"\xdf\xff\xff\xff\xff".iter().copied().cycle().take(8_000).collect();
    // {"Leaf": 1}, and nil.
    let trailing = b"\x81\xa4Leaf\x01\xc0".to_vec();
    vec![
        ("60 kB of nested enums", nested_enum),
        ("60 kB of nested arrays", vec![0x91; 60_000]),
        ("a megabyte of nested arrays", vec![0x91; 1 << 20]),
        ("array headers that claim 2^32 items", claims),
        ("map headers that claim 2^32 items", maps),
        ("a text that claims 4 GiB", b"\xdb\xff\xff\xff\xffhello".to_vec()),
        ("bytes that claim 4 GiB", b"\xc6\xff\xff\xff\xffhello".to_vec()),
        ("an empty body", Vec::new()),
        ("a value and a further byte", trailing),
        ("a code that MessagePack does not have", vec![0xc1]),
    ]
}
