//! Scales an image down: `thumbnail SIZE IMAGE`, with `SIZE` as `200` or `320x200`.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Cursor, Write};
use std::process::ExitCode;

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

/// Largest side of a thumbnail.
const MAX_SIZE: u32 = 4096;
const JPEG_QUALITY: u8 = 85;

const USAGE: &str = "thumbnail: usage: thumbnail SIZE IMAGE";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [size, file] = args.as_slice() else {
        eprintln!("{USAGE}: {} arguments were given, not two", args.len());
        return ExitCode::from(2);
    };
    let Some((width, height)) = parse(size) else {
        eprintln!("{USAGE}: {size:?} is not a size like 200 or 320x200, from 1 to {MAX_SIZE}");
        return ExitCode::from(2);
    };
    match run(file, width, height) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("thumbnail: {message}");
            ExitCode::FAILURE
        }
    }
}

fn parse(size: &str) -> Option<(u32, u32)> {
    let side = |digits: &str| digits.parse().ok().filter(|side| (1..=MAX_SIZE).contains(side));
    let (width, height) = size.split_once('x').unwrap_or((size, size));
    Some((side(width)?, side(height)?))
}

fn run(path: &str, width: u32, height: u32) -> Result<(), String> {
    let image = upright(path).map_err(|error| format!("can't read {path} as a JPEG, PNG or WebP image: {error}"))?;
    let small = match image.width() <= width && image.height() <= height {
        true => image,
        false => image.thumbnail(width, height),
    };
    let bytes = encode(&small).map_err(|error| format!("can't encode the thumbnail: {error}"))?;
    let mut out = BufWriter::new(io::stdout().lock());
    out.write_all(&bytes).and_then(|()| out.flush()).map_err(|error| format!("can't write the result: {error}"))
}

/// The image as it is meant to be seen: a camera notes how it was held, and leaves turning the image to its readers.
fn upright(path: &str) -> image::ImageResult<DynamicImage> {
    let reader = ImageReader::new(BufReader::new(File::open(path)?)).with_guessed_format()?;
    let mut decoder = reader.into_decoder()?;
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// JPEG, or PNG for an image with transparency, which JPEG has not.
fn encode(image: &DynamicImage) -> image::ImageResult<Vec<u8>> {
    let mut bytes = Vec::new();
    if image.color().has_alpha() {
        DynamicImage::from(image.to_rgba8()).write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)?;
    } else {
        JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY).encode_image(&image.to_rgb8())?;
    }
    Ok(bytes)
}
