//! Compressed inputs, unpacked while they are read: gzip and zstd, told by their first bytes.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Bytes read at once.
const BUFFER_BYTES: usize = 256 * 1024;
/// The first bytes of gzip, RFC 1952 section 2.3.1.
const GZIP: &[u8] = &[0x1f, 0x8b];
/// The first bytes of a zstd frame, RFC 8878 section 3.1.1.
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Returns a reader of what is in the file, compressed or not.
pub(super) fn unpacked(file: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
    // A pipe may bring less at first, but pipes are spooled.
    let head = reader.fill_buf()?;
    Ok(if head.starts_with(GZIP) {
        Box::new(Packed(Gzip(Some(GzDecoder::new(reader)))))
    } else if head.starts_with(ZSTD) {
        Box::new(Packed(Zstd { reader, decoder: FrameDecoder::new(), in_frame: false }))
    } else {
        Box::new(reader)
    })
}

/// Says of damaged data what to do, in place of what the decoder stumbled over.
struct Packed<R>(R);

impl<R: Read> Read for Packed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};

        self.0.read(buffer).map_err(|error| match error.kind() {
            InvalidData | InvalidInput | Other | UnexpectedEof => {
                io::Error::new(InvalidData, "the packed data is cut off or damaged; pack it again")
            }
            _ => error,
        })
    }
}

/// Reads gzip members one after the other. Zeros behind one are padding, as tapes and block devices leave it.
struct Gzip<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let Some(mut reader) = self.0.take().map(GzDecoder::into_inner) else { break };
            loop {
                let available = reader.fill_buf()?;
                let zeros = available.iter().take_while(|byte| **byte == 0).count();
                if available.is_empty() {
                    break;
                }
                if zeros < available.len() {
                    reader.consume(zeros);
                    self.0 = Some(GzDecoder::new(reader));
                    break;
                }
                reader.consume(zeros);
            }
        }
        Ok(0)
    }
}

/// Reads zstd frames one after the other, as `cat` and parallel compressors leave them.
struct Zstd<R> {
    reader: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame && !self.begin()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let block = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.reader, block).map_err(io::Error::other)?;
            }
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            self.in_frame = false;
            let told = self.decoder.get_checksum_from_data();
            if told.is_some() && told != self.decoder.get_calculated_checksum() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the checksum is wrong"));
            }
        }
    }
}

impl<R: BufRead> Zstd<R> {
    /// Reads the next frame's header; false at the end.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.reader.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.reader) {
                Ok(()) => {
                    self.in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = io::copy(&mut (&mut self.reader).take(length.into()), &mut io::sink())?;
                    if skipped < length.into() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(FrameDecoderError::WindowSizeTooBig { requested, .. }) => {
                    let mib = requested.div_ceil(1024 * 1024);
                    let what = format!("it needs {mib} MiB to unpack; pack it again without --long");
                    return Err(io::Error::new(io::ErrorKind::Unsupported, what));
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    use std::io::Write as _;

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &str) -> Vec<u8> {
        compress_to_vec(text.as_bytes(), CompressionLevel::Fastest)
    }

    fn read(bytes: Vec<u8>) -> io::Result<String> {
        let mut text = String::new();
        unpacked(io::Cursor::new(bytes))?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn members_and_frames_are_read_one_after_the_other() {
        let long = "0123456789\n".repeat(40_000);
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
        assert_eq!(read(b"plain".to_vec()).unwrap(), "plain");
        assert_eq!(read(Vec::new()).unwrap(), "");
        assert_eq!(read([gzip(&long), gzip("end")].concat()).unwrap(), format!("{long}end"));
        assert_eq!(read([gzip(&long), vec![0; 600_000]].concat()).unwrap(), long, "zeros are padding");
        assert_eq!(read([gzip(&long), vec![0; 9], gzip("end")].concat()).unwrap(), format!("{long}end"));
        assert!(read([gzip(&long), b"junk".to_vec()].concat()).is_err());
        assert_eq!(read([zstd(&long), skippable, zstd("end")].concat()).unwrap(), format!("{long}end"));
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        for bytes in [gzip("some text that is long enough"), zstd("some text that is long enough")] {
            for end in [bytes.len() - 1, bytes.len() / 2] {
                assert!(read(bytes[..end].to_vec()).is_err());
            }
        }
    }
}
