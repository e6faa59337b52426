//! Datagrams: a datagram that decodes survives encoding, and none decodes under a key that its sender does not have.

#![no_main]

use antiphon_wire::{DATAGRAM_BYTES_MAX, Datagram, DatagramKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let key = DatagramKey::new(7, &"a secret of the fuzzer".into());
    assert!(Datagram::decode(Some(&key), bytes).is_err(), "a datagram without a valid MAC was accepted");
    let Ok(datagram) = Datagram::decode(None, bytes) else { return };
    assert!(bytes.len() <= DATAGRAM_BYTES_MAX);
    for key in [None, Some(&key)] {
        let mut again = Vec::new();
        // With a tag, the datagram may be too long.
        if datagram.encode(key, &mut again).is_ok() {
            assert!(again.len() <= DATAGRAM_BYTES_MAX);
            assert_eq!(Datagram::decode(key, &again).as_ref(), Ok(&datagram));
        } else {
            assert!(
                key.is_some() || bytes.len() > DATAGRAM_BYTES_MAX,
                "a datagram that fits was not encoded"
            );
        }
    }
});
