package oauth

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

const (
	// maxAnswer bounds what is read of an answer, in bytes, before and after it
	// is unpacked.
	maxAnswer = 1 << 20
	// longestLifetime is more than any provider means: beyond it, expires_in is
	// taken for unreadable.
	longestLifetime = 100 * 365 * 24 * time.Hour
)

// answer is what a token endpoint said. A provider hands out each token once,
// so whatever can be read is kept, however oddly the rest is written.
type answer struct {
	status int
	// access and refresh are "" where there is none, or none that is whole.
	access, refresh string
	// lifetime is that of the access token; 0 = not known.
	lifetime time.Duration
	// codes name the error: of RFC 6749, or the type and code of an error object.
	codes       []string
	description string
	// isJSON is true of a whole JSON document.
	isJSON bool
}

// refusals are the error codes that judge the credential: RFC 6749, section 5.2.
var refusals = []string{"invalid_grant", "invalid_client", "unauthorized_client"}

// refused reports whether the endpoint judged the credential. A page, 429 and
// 5xx come from what stands before the endpoint, or say that it is in trouble.
func (a *answer) refused() bool {
	judged := a.status < 300 || a.status >= 400 && a.status < 500 && a.status != http.StatusTooManyRequests
	return judged && a.isJSON && slices.ContainsFunc(a.codes, func(code string) bool { return slices.Contains(refusals, code) })
}

// readAnswer reads a response to its end. The error is that of a body that
// broke off; the answer holds what came before.
func readAnswer(response *http.Response) (*answer, error) {
	text, whole, err := readBody(response)
	a := &answer{status: response.StatusCode}
	switch {
	case strings.HasPrefix(text, "{"):
		a.isJSON = whole && gjson.Valid(text)
		a.readJSON(text)
	case strings.Contains(text, "access_token=") && !strings.HasPrefix(text, "<"):
		a.readForm(text, whole)
	}
	return a, err
}

// readBody returns the unpacked text and whether it is all there.
func readBody(response *http.Response) (text string, whole bool, err error) {
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	whole = err == nil && len(body) < maxAnswer
	if unpack := packing(response.Header, body); unpack != nil {
		plain, unpackErr := io.ReadAll(io.LimitReader(unpack, maxAnswer))
		body = plain
		whole = whole && unpackErr == nil && len(body) < maxAnswer
		if err == nil {
			err = unpackErr
		}
	}
	body = bytes.TrimPrefix(bytes.TrimSpace(body), []byte("\ufeff"))
	return string(bytes.TrimSpace(body)), whole, err
}

// packing returns a reader of a packed body; nil for one that is not packed. An
// endpoint, or a proxy before it, may pack an answer though it wasn't asked to.
func packing(header http.Header, body []byte) io.Reader {
	if bytes.HasPrefix(body, []byte{0x1f, 0x8b}) { // gzip, whatever the header says
		if unpack, err := gzip.NewReader(bytes.NewReader(body)); err == nil {
			return unpack
		}
	}
	if !strings.EqualFold(strings.TrimSpace(header.Get("Content-Encoding")), "deflate") || bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
		return nil
	}
	// RFC 9110 means zlib by "deflate"; some servers leave its header out.
	if unpack, err := zlib.NewReader(bytes.NewReader(body)); err == nil {
		return unpack
	}
	return flate.NewReader(bytes.NewReader(body))
}

// readJSON takes the members of an object, which may be cut off: a text without
// its closing quote is passed over, and so is a number that runs to the end.
func (a *answer) readJSON(text string) {
	gjson.Parse(text).ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "access_token":
			a.keep(&a.access, value)
		case "refresh_token":
			a.keep(&a.refresh, value)
		case "expires_in":
			if value.Type == gjson.String || value.Index+len(value.Raw) < len(text) {
				a.lifetime = lifetime(value.String())
			}
		case "error":
			a.readError(value)
		case "error_description":
			a.keep(&a.description, value)
		}
		return true
	})
}

// readError takes the member "error": a code, or an object as APIs have it.
func (a *answer) readError(value gjson.Result) {
	if value.Type == gjson.String {
		a.codes = append(a.codes, value.Str)
	}
	if !value.IsObject() {
		return
	}
	for _, name := range []string{"type", "code"} {
		if code := value.Get(name); code.Type == gjson.String {
			a.codes = append(a.codes, code.Str)
		}
	}
	a.keep(&a.description, value.Get("message"))
}

// keep takes a text that is not empty.
func (a *answer) keep(field *string, value gjson.Result) {
	if text := strings.TrimSpace(value.Str); text != "" {
		*field = text
	}
}

// readForm reads an answer that is form-encoded, as some servers send it.
func (a *answer) readForm(text string, whole bool) {
	if !whole { // the last value may be cut
		text = text[:max(strings.LastIndexByte(text, '&'), 0)]
	}
	form, _ := url.ParseQuery(text) // what can be read is kept
	a.access = strings.TrimSpace(form.Get("access_token"))
	a.refresh = strings.TrimSpace(form.Get("refresh_token"))
	a.lifetime = lifetime(form.Get("expires_in"))
}

// lifetime reads seconds: 3600, 3600.0, 3.6e3. 0 = not known.
func lifetime(text string) time.Duration {
	seconds, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil || !(seconds > 0 && seconds <= longestLifetime.Seconds()) {
		return 0
	}
	return time.Duration(seconds * float64(time.Second))
}
