package config

import (
	"net/url"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// checkProxy checks the account's proxy as the config has it. Its errors do not
// show the URL, which may hold credentials.
func (a *Account) checkProxy(at spot) error {
	if a.Proxy == "" {
		return nil
	}
	found, err := placeholders(a.Proxy)
	if err == nil && !found {
		_, err = upstream.ParseProxy(a.Proxy)
	}
	if err != nil {
		return at.errorf("proxy", "%w", err)
	}
	return nil
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
