package oauth

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"testing"
	"time"
)

const (
	wholeJSON = `{"access_token":"access-9","expires_in":3600,"refresh_token":"refresh-9","scope":"a"}`
	wholeForm = `access_token=access-9&expires_in=3600&refresh_token=refresh-9&scope=a`
)

// cutBody ends with the error of a connection that broke.
type cutBody struct{ *bytes.Reader }

func (b cutBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (cutBody) Close() error { return nil }

// TestNoCutAnswerIsMisread cuts answers everywhere: a value is the whole one or
// none, and the access token is there from its last byte on.
func TestNoCutAnswerIsMisread(t *testing.T) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := io.WriteString(w, wholeJSON); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, body := range [][]byte{[]byte(wholeJSON), []byte(wholeForm), packed.Bytes()} {
		var last answer
		for end := range len(body) + 1 {
			a, err := readAnswer(&http.Response{StatusCode: 200, Header: http.Header{}, Body: cutBody{bytes.NewReader(body[:end])}})
			if err == nil {
				t.Fatalf("%q: no error", body[:end])
			}
			for _, value := range [][2]string{{a.access, "access-9"}, {a.refresh, "refresh-9"}} {
				if value[0] != "" && value[0] != value[1] {
					t.Errorf("%q: %+v", body[:end], a)
				}
			}
			if a.lifetime != 0 && a.lifetime != time.Hour {
				t.Errorf("%q: %+v", body[:end], a)
			}
			if last.access != "" && a.access == "" || last.refresh != "" && a.refresh == "" || last.lifetime > 0 && a.lifetime == 0 {
				t.Errorf("%q: %+v is less than before", body[:end], a)
			}
			last = *a
		}
		if last.access == "" || last.refresh == "" || last.lifetime == 0 {
			t.Errorf("%q: %+v", body, last)
		}
	}
}

// FuzzReadAnswer looks for answers that can't be read without harm.
func FuzzReadAnswer(f *testing.F) {
	for _, seed := range []string{wholeJSON, wholeForm, `{"error":{"type":"invalid_grant"}}`, "\x1f\x8b", `{"access_token":"a\\`, `{"expires_in":1e999}`, `[`} {
		f.Add(seed, "deflate")
	}
	f.Fuzz(func(t *testing.T, body, encoding string) {
		response := &http.Response{StatusCode: 200, Header: http.Header{"Content-Encoding": {encoding}}, Body: cutBody{bytes.NewReader([]byte(body))}}
		if a, err := readAnswer(response); err == nil || a.refused() || a.lifetime < 0 || a.lifetime > longestLifetime {
			t.Errorf("%+v, %v", a, err)
		}
	})
}
