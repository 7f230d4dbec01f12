package config

import (
	"encoding/json"
	"strings"
	"testing"
)

// jsonConfig is a handler as Caddy makes it from a JSON config with these groups.
func jsonConfig(t *testing.T, groups string) *Config {
	t.Helper()
	var h Config
	text := `{"account":[{"name":"main","api_key":"a"}],"user":[{"name":"alice"}],"group":[` + groups + `]}`
	if err := json.Unmarshal([]byte(text), &h); err != nil {
		t.Fatal(err)
	}
	return &h
}

func TestAGroupHasARateOrLimits(t *testing.T) {
	for groups, want := range map[string]string{
		`{"name":"pro","rate_multiplier":0.5,"limits":{"daily":"1"}}`:                                                     "group[0].rate_multiplier",
		`{"name":"pro","limits":{"daily":"1"},"rate_multiplier":1}`:                                                       "group[0].rate_multiplier",
		`{"name":"pro","limits":{"daily":"1"},"rate_multiplier":1.0}`:                                                     "group[0].rate_multiplier",
		`{"name":"pro","limits":{"daily":"1"},"rate_multiplier":0}`:                                                       "group[0].rate_multiplier",
		`{"name":"payg","rate_multiplier":2},{"name":"other","limits":{"monthly":1},"rate_multiplier":"0.0"}`:             "group[1].rate_multiplier",
		`{"name":"pro","limits":{"daily":"1"},"rate_multiplier":null}`:                                                    "",
		`{"name":"payg","limits":null,"rate_multiplier":1}`:                                                               "",
		`{"name":"payg","rate_multiplier":0}`:                                                                             "",
		`{"name":"pro","limits":{"daily":"1"}},{"name":"payg","rate_multiplier":1.5},{"name":"plain"},{"name":"plainer"}`: "",
	} {
		h := jsonConfig(t, groups)
		for range 2 { // a config is checked before and after its defaults are filled in
			_, err := h.Build()
			switch {
			case want == "" && err != nil:
				t.Errorf("%s: %v", groups, err)
			case want != "" && (err == nil || !strings.Contains(err.Error(), "stands beside limits") || !strings.Contains(err.Error(), want)):
				t.Errorf("%s: error %v, want one at %s", groups, err, want)
			}
		}
	}
}

func TestSubscribersPayNothing(t *testing.T) {
	s := mustSettings(t, jsonConfig(t, `{"name":"pro","limits":{"daily":"1"}},{"name":"payg","rate_multiplier":1.5},{"name":"plain"},{"name":"free","rate_multiplier":0}`))
	for name, want := range map[string]string{"pro": "0", "payg": "1.5", "plain": "1", "free": "0"} {
		if got := s.Groups[name].Rate.String(); got != want {
			t.Errorf("the rate of %s is %s, want %s", name, got, want)
		}
	}
}
