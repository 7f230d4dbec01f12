package journal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/sub2api/caddy-sub2api/billing"
)

// A frame is the length of the payload and its CRC-32C, 4 bytes each, little
// endian, and the payload, a record as Encode makes it.
const (
	frameHeader = 8
	// largestFrame bounds what a damaged length can make a reader read.
	largestFrame = 1 << 20
	readBuffer   = 64 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AppendFrame appends a record's frame to b. A record of more than 1 MiB is an
// error.
func AppendFrame(b []byte, r *billing.Record) ([]byte, error) {
	start := len(b)
	b = Encode(append(b, make([]byte, frameHeader)...), r)
	payload := b[start+frameHeader:]
	if len(payload) > largestFrame {
		return b, fmt.Errorf("it has %d bytes, more than the %d that can be kept", len(payload), largestFrame)
	}
	seal(b[start:])
	return b, nil
}

// Payload is what a frame that AppendFrame appended to nothing has of the record, as
// Encode makes it.
func Payload(frame []byte) []byte { return frame[frameHeader:] }

// seal writes a frame's header.
func seal(frame []byte) {
	payload := frame[frameHeader:]
	binary.LittleEndian.PutUint32(frame, uint32(len(payload)))
	binary.LittleEndian.PutUint32(frame[4:], crc32.Checksum(payload, castagnoli))
}

// readFrames gives at most that many records of the frames between from and
// size, and the length of those frames.
func readFrames(file io.ReaderAt, from, size int64, most int) (records []billing.Record, length int64, err error) {
	in := bufio.NewReaderSize(io.NewSectionReader(file, from, size-from), readBuffer)
	var frame []byte
	for len(records) < most {
		var r billing.Record
		frame, err = nextFrame(in, size-from-length, frame)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return records, length, nil // also of a file that something else has cut
		}
		if err != nil {
			return nil, 0, err
		}
		if frame != nil && isMark(frame) {
			length += int64(len(frame))
			continue
		}
		if frame == nil || !Decode(frame[frameHeader:], &r) {
			return records, length, nil
		}
		records = append(records, r)
		length += int64(len(frame))
	}
	return records, length, nil
}

// nextFrame reads a frame that ends within that many bytes into buffer's memory;
// nil if there is something else.
func nextFrame(in io.Reader, left int64, buffer []byte) ([]byte, error) {
	frame := slices.Grow(buffer[:0], frameHeader)[:frameHeader]
	if _, err := io.ReadFull(in, frame); err != nil {
		return nil, err
	}
	length := int64(binary.LittleEndian.Uint32(frame))
	if length == 0 || length > largestFrame || length > left-frameHeader {
		return nil, nil
	}
	frame = slices.Grow(frame, int(length))[:frameHeader+length]
	payload := frame[frameHeader:]
	if _, err := io.ReadFull(in, payload); err != nil {
		return nil, err
	}
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(frame[4:]) {
		return nil, nil
	}
	return frame, nil
}
