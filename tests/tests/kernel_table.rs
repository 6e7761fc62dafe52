//! x
use lb_userspace::dataplane::*;
#[test]
fn loads() {
    let mut d = match Dataplane::load(Sizes::new(10000, true, 100)) {
        Ok(d) => d,
        Err(e) => {
            let mut s: Option<&dyn std::error::Error> = Some(&e);
            while let Some(x) = s {
                let t = x.to_string();
                println!("{}", &t[t.len().saturating_sub(6000)..]);
                s = x.source();
            }
            panic!()
        }
    };
    println!("insns: {}", d.verified_instructions().unwrap());
}
