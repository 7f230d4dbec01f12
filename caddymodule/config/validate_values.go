package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http/httpguts"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream"
)

// Bounds of a balance, in nano-dollars, and of a price multiplier that is not 0.
// Below minRate, Caddy's adapter would write the number with an exponent.
const (
	MaxBalance billing.USD = 1_000_000_000 * 1_000_000_000
	minRate                = billing.RateOne / 1_000_000
	maxRate                = 1000 * billing.RateOne
)

// Unlimited is the balance of a user who has none.
const Unlimited = "unlimited"

// configError is an error in one item of the config. The item's path, such as
// "account[0].base_url", lets the directive's parser find its line.
type configError struct {
	path string
	err  error
}

func (f *configError) Error() string { return f.err.Error() }
func (f *configError) Unwrap() error { return f.err }

// atPath adds its path to an error in an item of a JSON config, which has no lines.
func atPath(err error) error {
	if f, ok := errors.AsType[*configError](err); ok && f.path != "" {
		return fmt.Errorf("%w (at %s)", err, f.path)
	}
	return err
}

// position is a place in the config: its path, and what errors call it.
type position struct{ path, title string }

// in is a place below this one.
func (at position) in(word string) position {
	return position{at.path + "." + word, at.title + ": " + word}
}

// errorf makes an error of a word at this position; "" is the position itself.
func (at position) errorf(word, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	switch {
	case word == "":
		return &configError{at.path, fmt.Errorf("%s: %w", at.title, err)}
	case at.path == "":
		return &configError{word, fmt.Errorf("%s: %w", word, err)}
	}
	// An index is for the parser alone: to the reader, "key[1]" is "key".
	shown, _, _ := strings.Cut(word, "[")
	return &configError{at.path + "." + word, fmt.Errorf("%s: %s: %w", at.title, shown, err)}
}

// name checks a name against its form and those taken.
func (at position) name(name string, taken map[string]bool) error {
	if name == "" {
		return position{at.path, at.path}.errorf("", "has no name; give it one")
	}
	if err := VetName(name); err != nil {
		kind, _, _ := strings.Cut(at.title, " ")
		return position{at.path, kind}.errorf("", "the name %.80q can't be used: it %w", name, err)
	}
	if taken[name] {
		return at.errorf("", "the name is taken; give each its own")
	}
	return nil
}

// oneOf checks that value is "" (the default) or one of those allowed.
func (at position) oneOf(word, value string, allowed ...string) error {
	if value == "" || slices.Contains(allowed, value) {
		return nil
	}
	last := len(allowed) - 1
	return at.errorf(word, "%q is unknown; write %s or %s", value, strings.Join(allowed[:last], ", "), allowed[last])
}

// between checks a number.
func (at position) between(word string, value, low, high int) error {
	if value >= low && value <= high {
		return nil
	}
	return at.errorf(word, "%d is out of range; write a number between %d and %d", value, low, high)
}

// upTo checks a duration, which must be over zero.
func (at position) upTo(word string, value caddy.Duration, high time.Duration) error {
	if value > 0 && time.Duration(value) <= high {
		return nil
	}
	return at.errorf(word, "%s is out of range; write a duration over 0s and up to %s", time.Duration(value), high)
}

// notOver checks a duration that may be zero.
func (at position) notOver(word string, value caddy.Duration, high time.Duration) error {
	if value >= 0 && time.Duration(value) <= high {
		return nil
	}
	return at.errorf(word, "%s is out of range; write a duration from 0s to %s", time.Duration(value), high)
}

// rate checks a price multiplier.
func (at position) rate(word string, value billing.Rate) error {
	if value == 0 || value >= minRate && value <= maxRate {
		return nil
	}
	return at.errorf(word, "%s is out of range; write 0, or a number between %s and %s", value, minRate, maxRate)
}

// balance checks an opening balance; "" is the default.
func (at position) balance(word string, value Dollars) error {
	if value == "" || value == Unlimited {
		return nil
	}
	amount, err := billing.ParseUSD(string(value))
	if err != nil || amount < 0 || amount > MaxBalance {
		return at.errorf(word, "%.80q is not a balance; write US dollars between 0 and a billion, such as 20 or 0.50, or: unlimited", string(value))
	}
	return nil
}

// secret checks a credential as the config has it.
func (at position) secret(word, value string) error {
	found, err := placeholders(value)
	if err == nil && !found {
		err = credentialText(value)
	}
	if err != nil {
		return at.errorf(word, "%w", err)
	}
	return nil
}

// credentialText checks a resolved credential. It must fit into a header. The
// errors do not show it.
func credentialText(value string) error {
	if value == "" {
		return errors.New("is empty; write the secret, {env.NAME} or {file./absolute/path}")
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("has a space, a line break or another character that no key or token has; write it on one line, without spaces")
	}
	return nil
}

// digestPrefix marks a gateway key that is given by its SHA-256 digest.
const digestPrefix = "sha256:"

// keyDigest returns the SHA-256 digest of a resolved gateway key. The errors do
// not show it.
func keyDigest(key string) (digest [sha256.Size]byte, err error) {
	if err := credentialText(key); err != nil {
		return digest, err
	}
	digits, ok := strings.CutPrefix(key, digestPrefix)
	if !ok {
		return sha256.Sum256([]byte(key)), nil
	}
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw) != len(digest) {
		return digest, fmt.Errorf("sha256: wants the 64 hexadecimal digits of the key's SHA-256 digest, and these are %d characters or no such digits; make them with: printf %%s \"$KEY\" | sha256sum", len(digits))
	}
	return [sha256.Size]byte(raw), nil
}

// keyIdentity checks a gateway key as the config has it. Two keys of one
// identity are the same key.
func keyIdentity(key string) (string, error) {
	found, err := placeholders(key)
	if err != nil || found {
		return key, err
	}
	digest, err := keyDigest(key)
	return digestPrefix + hex.EncodeToString(digest[:]), err
}

// parseBaseURL checks a resolved base_url. Slashes and a /v1 at its end are
// dropped: OpenAI's and Google's clients want a base URL with the version, and
// Anthropic's one without, so people write either.
func parseBaseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		// The parser's error would show the whole text, and with it a password.
		return nil, errors.New("is not a URL; write one such as https://host/path")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("%s is neither http nor https; write a URL such as https://host/path", u.Redacted())
	case u.Hostname() == "":
		return nil, fmt.Errorf("%s has no host; write a URL such as https://host/path", u.Redacted())
	case !upstream.ValidPort(u.Port()):
		return nil, fmt.Errorf("%s has a port outside 1 to 65535", u.Redacted())
	case u.User != nil:
		return nil, errors.New("holds a user name; give the credential as api_key, setup_token or oauth")
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(text, "#"):
		return nil, fmt.Errorf("%s has a query or fragment; leave out what follows the path", u.Redacted())
	}
	// The escaped path, in which an encoded slash ends nothing.
	path := strings.TrimRight(u.EscapedPath(), "/")
	path = strings.TrimRight(strings.TrimSuffix(path, "/v1"), "/")
	if u.RawPath != "" {
		u.RawPath = path
	}
	u.Path, _ = url.PathUnescape(path) // it was unescaped before
	return u, nil
}

func headerName(name string) error {
	if !httpguts.ValidHeaderFieldName(name) {
		return fmt.Errorf("%.80q is not a header name; write one such as X-Extra", name)
	}
	if slices.Contains(upstream.ConnectionHeaders, http.CanonicalHeaderKey(name)) {
		return fmt.Errorf("%s is set by the HTTP client itself; leave it out", name)
	}
	return nil
}

func headerValue(value string) error {
	if value == "" {
		return errors.New("has an empty value; write one, or leave the header out")
	}
	if !httpguts.ValidHeaderFieldValue(value) {
		return errors.New("has a value with a line break or control character; write it on one line")
	}
	return nil
}

// allowedHeader checks a header name to let through, or a prefix of names.
func allowedHeader(pattern string) error {
	prefix, wild := strings.CutSuffix(pattern, "*")
	if wild && prefix == "" {
		return errors.New("* would let every header through; write a prefix, such as X-My-*")
	}
	if err := headerName(prefix); err != nil {
		return err
	}
	if slices.Contains(upstream.CredentialHeaders, http.CanonicalHeaderKey(prefix)) {
		return fmt.Errorf("%s carries the client's own credential, which never goes upstream; leave it out", prefix)
	}
	return nil
}

// placeholders reports whether the text holds placeholders. All must be of the
// kinds that can be resolved when the config is loaded. The errors do not show
// the text around them: it may be a secret.
func placeholders(text string) (found bool, err error) {
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+1 < len(text) && (text[i+1] == '{' || text[i+1] == '}') {
			i++ // escaped, as Caddy's replacer has it
			continue
		}
		if text[i] != '{' {
			continue
		}
		length := strings.IndexByte(text[i:], '}')
		if length < 0 {
			return false, errors.New(`has a { without a }; write {env.NAME} or {file./absolute/path}, or \{ for the character itself`)
		}
		if err := loadTimePlaceholder(text[i+1 : i+length]); err != nil {
			return false, err
		}
		found = true
		i += length
	}
	return found, nil
}

// requestFilePrefix is what Caddy's Caddyfile adapter makes of {file.name}.
const requestFilePrefix = "http.request.uri.path.file."

func loadTimePlaceholder(name string) error {
	if variable, ok := strings.CutPrefix(name, "env."); ok && variable != "" && !strings.ContainsAny(variable, "{\\=") {
		return nil
	}
	if file, ok := strings.CutPrefix(name, requestFilePrefix); ok {
		return fmt.Errorf("{file.%s} has no slash, so Caddy takes it for a placeholder of the request's path and the file would never be read; write an absolute path, such as {file./run/secrets/%[1]s}", file)
	}
	if file, ok := strings.CutPrefix(name, "file."); ok && !strings.HasSuffix(name, "\\") {
		if filepath.IsAbs(file) {
			return nil
		}
		return fmt.Errorf("{file.%s} is not an absolute path, so what it names depends on where Caddy was started; write one such as {file./run/secrets/name}", file)
	}
	for _, known := range []string{"http.", "system.", "time."} {
		if strings.HasPrefix(name, known) {
			return fmt.Errorf("{%s} can't be used here; write {env.NAME} or {file./absolute/path}", name)
		}
	}
	return errors.New(`has a placeholder other than {env.NAME} and {file./absolute/path}; write \{ for the character itself`)
}
