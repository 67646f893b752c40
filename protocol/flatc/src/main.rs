//! Regenerates `protocol/src/generated/*.rs` from `protocol/schema/*.fbs`.
//!
//! Run it from anywhere, after a schema has changed:
//!
//! ```text
//! cargo run --manifest-path protocol/flatc/Cargo.toml
//! ```
//!
//! The first run compiles flatc, which takes minutes and needs cmake and a C++ compiler. The first
//! line of each generated file names its schema's hash and the compiler, and a unit test of
//! tracklog-protocol compares both, so that nobody has to compile flatc to see that code and
//! schema agree.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs, io};

use xxhash_rust::xxh3::xxh3_64;

/// The schemas, each of which becomes one module.
const SCHEMAS: [&str; 2] = ["event", "rejected"];

fn main() -> ExitCode {
    match regenerate() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn regenerate() -> io::Result<()> {
    let protocol = protocol_folder();
    let compiler = compiler_version()?;
    for schema in SCHEMAS {
        let source = protocol.join("schema").join(format!("{schema}.fbs"));
        let target = protocol.join("src/generated").join(format!("{schema}.rs"));
        let code = generate(&source)?;
        let hash = xxh3_64(&fs::read(&source)?);
        fs::write(
            &target,
            format!("// schema {hash:016x}, {compiler}\n{code}"),
        )?;
        println!("{}", target.display());
    }
    Ok(())
}

/// The Rust code that flatc makes of one schema.
fn generate(schema: &Path) -> io::Result<String> {
    let output = env::temp_dir().join(format!("tracklog-flatc-{}", std::process::id()));
    fs::create_dir_all(&output)?;
    let status = Command::new(flatc_fork::flatc())
        .arg("--rust")
        .arg("-o")
        .arg(&output)
        .arg(schema)
        .status();
    let generated = status.and_then(|status| {
        if !status.success() {
            return Err(io::Error::other(format!(
                "flatc refused {}",
                schema.display()
            )));
        }
        let stem = schema
            .file_stem()
            .expect("a schema has a name")
            .to_string_lossy();
        fs::read_to_string(output.join(format!("{stem}_generated.rs")))
    });
    fs::remove_dir_all(&output)?;
    generated
}

/// What the compiler calls itself, such as `flatc version 25.12.19`.
fn compiler_version() -> io::Result<String> {
    let output = Command::new(flatc_fork::flatc())
        .arg("--version")
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn protocol_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("it lies in protocol")
        .to_owned()
}
