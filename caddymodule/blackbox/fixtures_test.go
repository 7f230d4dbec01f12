package blackbox_test

import (
	"bufio"
	"bytes"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"net/http"
)

// fixture reads a request of testdata/requests: a line with method and path,
// headers, an empty line, and the body, of which every byte counts.
func fixture(t *testing.T, name string) call {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "requests", name+".http"))
	if err != nil {
		t.Fatal(err)
	}
	head, body, ok := bytes.Cut(data, []byte("\n\n"))
	line, fields, _ := bytes.Cut(head, []byte("\n"))
	method, path, ok2 := strings.Cut(string(line), " ")
	if !ok || !ok2 {
		t.Fatalf("%s.http is not a request", name)
	}
	header, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(fields, "\n\n"...)))).ReadMIMEHeader()
	if err != nil && len(fields) > 0 {
		t.Fatal(err)
	}
	return call{method: method, path: path, header: http.Header(header), body: string(body)}
}
