package redistest

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// largestRESP is the longest text, in bytes, and the longest list that a connection
// may carry: tests need far less.
const largestRESP = 64 << 20

// readCommand reads one command as clients send it, a list of texts or one line,
// and what it was as bytes.
func readCommand(r *bufio.Reader) (words []string, raw []byte, err error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return nil, nil, err
	}
	if line[0] != '*' {
		return strings.Fields(string(line)), line, nil
	}
	count, err := respNumber(line)
	if err != nil {
		return nil, nil, err
	}
	raw = line
	for range count {
		from := len(raw)
		if raw, err = appendReply(raw, r); err != nil {
			return nil, nil, err
		}
		_, text, _ := strings.Cut(string(raw[from:]), "\r\n")
		words = append(words, strings.TrimSuffix(text, "\r\n"))
	}
	return words, raw, nil
}

// appendReply reads one value, as servers send it in RESP2 and RESP3, and appends
// its bytes.
func appendReply(to []byte, r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return to, err
	}
	to = append(to, line...)
	parts := int64(0)
	switch line[0] {
	case '+', '-', ':', '_', ',', '#', '(':
		return to, nil
	case '$', '=', '!':
		size, err := respNumber(line)
		if err != nil || size < 0 {
			return to, err
		}
		from := len(to)
		to = append(to, make([]byte, size+2)...)
		_, err = io.ReadFull(r, to[from:])
		return to, err
	case '*', '~', '>':
		parts, err = respNumber(line)
	case '%':
		parts, err = respNumber(line)
		parts *= 2
	default:
		err = fmt.Errorf("no RESP: %.80q", line)
	}
	for ; err == nil && parts > 0; parts-- {
		to, err = appendReply(to, r)
	}
	return to, err
}

// respNumber reads the number of a line such as "$12"; null is -1.
func respNumber(line []byte) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(string(line[1:])), 10, 64)
	if err != nil || n < -1 || n > largestRESP {
		return 0, fmt.Errorf("no RESP, or too long: %.80q", line)
	}
	return n, nil
}
