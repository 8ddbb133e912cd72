//! Puts the built dashboard into the binary: the folder that `FATHOM_WEB_DIST` names, or `../web/dist` if there is one, or nothing.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Files of a dashboard; more are a wrong folder.
const MOST_FILES: usize = 2000;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=assets/fallback.html");
    println!("cargo::rerun-if-env-changed=FATHOM_WEB_DIST");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let folder = match env::var_os("FATHOM_WEB_DIST").filter(|folder| !folder.is_empty()) {
        Some(folder) => {
            let folder = PathBuf::from(folder);
            if !folder.join("index.html").is_file() {
                return Err(format!("FATHOM_WEB_DIST: there is no index.html in {}", folder.display()).into());
            }
            folder
        }
        None => manifest.join("../web/dist"),
    };
    // Cargo would run this each time if it watched a folder that is not there. `cargo xtask quickstart` names the folder, which is noticed.
    if folder.is_dir() {
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    let mut table = String::from("const ASSETS: &[Asset] = &[\n");
    if folder.join("index.html").is_file() {
        let mut files = Vec::new();
        collect(&folder, &mut files)?;
        files.sort();
        for (index, file) in files.iter().enumerate() {
            write_asset(&folder, file, &out.join(format!("asset{index}")), &mut table)?;
        }
    }
    table.push_str("];\n");
    fs::write(out.join("assets.rs"), table)?;
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
        if files.len() > MOST_FILES {
            return Err(format!("more than {MOST_FILES} files in the dashboard's folder").into());
        }
    }
    Ok(())
}

/// Adds a file to the table. Its bytes are copied to `copy`, since the folder may be built again while the compiler reads, and compressed
/// beside it if that is smaller.
fn write_asset(folder: &Path, file: &Path, copy: &Path, table: &mut String) -> Result<(), Box<dyn Error>> {
    let bytes = fs::read(file)?;
    let path = file
        .strip_prefix(folder)?
        .to_str()
        .ok_or("a file's name is not UTF-8")?
        .replace('\\', "/");
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let etag = format!("\"{:016x}\"", hasher.finish());
    // Vite names these after their content.
    let immutable = path.starts_with("assets/");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&bytes)?;
    let compressed = encoder.finish()?;
    fs::write(copy, &bytes)?;
    let gzip = copy.with_extension("gz");
    let smaller = compressed.len() < bytes.len();
    if smaller {
        fs::write(&gzip, compressed)?;
    }
    let gzip = if smaller {
        format!("Some(include_bytes!({gzip:?}))")
    } else {
        "None".into()
    };
    let mime = mime(&path);
    writeln!(
        table,
        "    Asset {{ path: {path:?}, mime: {mime:?}, etag: {etag:?}, immutable: {immutable}, plain: include_bytes!({copy:?}), gzip: {gzip} }},"
    )?;
    Ok(())
}

fn mime(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or("") {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "webp" => "image/webp",
        "woff2" => "font/woff2",
        "woff" => "font/woff",
        "wasm" => "application/wasm",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
