// SPDX-License-Identifier: GPL-2.0

//! Every input that the fuzzer has found worth keeping, and some that are made of them, without
//! the fuzzer.

use cachefiles_fuzz::{corpus, TARGETS};
use fastrand::Rng;
use std::{fs, path::Path};

fn kept(target: &str) -> Vec<Vec<u8>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("corpus/{target}.txt"));
    corpus::read(&fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn kept_inputs() {
    for (name, check) in TARGETS {
        let inputs = kept(name);
        assert!(inputs.len() > 20, "{name}: {} inputs only", inputs.len());
        inputs.iter().for_each(|input| check(input));
    }
}

#[test]
fn inputs_cut_and_joined() {
    let mut random = Rng::with_seed(1);
    for (name, check) in TARGETS {
        let inputs = kept(name);
        for _ in 0..4_000 {
            let mut input = random.choice(&inputs).cloned().unwrap_or_default();
            input.truncate(random.usize(..=input.len()));
            input.extend(random.choice(&inputs).into_iter().flatten());
            for _ in 0..random.u32(..4) {
                let at = random.usize(..input.len().max(1));
                if let Some(byte) = input.get_mut(at) {
                    *byte = random.u8(..);
                }
            }
            check(&input);
        }
    }
}

#[test]
fn lengths_at_the_limits() {
    for (_, check) in TARGETS {
        for len in [
            0, 1, 250, 251, 252, 253, 254, 255, 256, 1023, 1024, 1025, 4094, 4095, 4096,
        ] {
            check(&vec![b'a'; len]);
            check(&vec![0; len]);
            check(&vec![0xff; len]);
        }
    }
}

#[test]
fn text_form() {
    let inputs = vec![b"".to_vec(), (0..=255).collect(), b"#\\\"'\n".to_vec()];
    let text = corpus::write(&inputs);
    let mut again = corpus::read(&text).unwrap();
    again.sort();
    assert_eq!(again, inputs);
}
