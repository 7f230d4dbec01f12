package admin

import (
	"net/http/httptest"
	"strings"
	"testing"
)

func TestWhoPauses(t *testing.T) {
	for remote, want := range map[string]string{
		"127.0.0.1:1234": "the admin API", "[::1]:1234": "the admin API", "[::ffff:127.0.0.1]:1": "the admin API", "@": "the admin API", "": "the admin API",
		"10.0.0.3:1": "the admin API, from 10.0.0.3", "[2001:db8::1]:1": "the admin API, from 2001:db8::1",
	} {
		r := httptest.NewRequest("POST", "/", nil)
		r.RemoteAddr = remote
		if got := (&call{r: r}).caller(); got != want {
			t.Errorf("%q: %q, want %q", remote, got, want)
		}
	}
}

// largestKeyDigits is 2^256 − 1 in base 62, digits 0-9a-zA-Z.
const largestKeyDigits = "YHJSKWDa6oz1al1yMhwzwM8llg7hJNUca2J5RoW8xP1"

func TestKeyTextIsExact(t *testing.T) {
	var largest [32]byte
	for i := range largest {
		largest[i] = 0xff
	}
	for _, test := range []struct {
		secret [32]byte
		want   string
	}{
		{[32]byte{}, "sk-" + strings.Repeat("0", 43)},
		{[32]byte{31: 61}, "sk-" + strings.Repeat("0", 42) + "Z"},
		{[32]byte{31: 62}, "sk-" + strings.Repeat("0", 41) + "10"},
		{largest, "sk-" + largestKeyDigits},
	} {
		if got := keyText(test.secret); got != test.want {
			t.Errorf("%x: %s, want %s", test.secret, got, test.want)
		}
	}
}
