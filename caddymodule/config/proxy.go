package config

import (
	"net/url"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// checkProxy checks a proxy as the config has it. Its errors do not show the URL, which
// may hold credentials.
func checkProxy(text string) error {
	found, err := placeholders(text)
	if err == nil && !found {
		_, err = upstream.ParseProxy(text)
	}
	return err
}

// buildProxy resolves a proxy that was checked; nil if there is none.
func (a *Account) buildProxy() (*url.URL, error) {
	if a.Proxy == "" {
		return nil, nil
	}
	text, err := resolve(a.Proxy)
	if err != nil {
		return nil, err
	}
	return upstream.ParseProxy(text)
}
