package config

import (
	"fmt"
	"io"
	"os"

	"github.com/sub2api/caddy-sub2api/billing"
)

// maxPricesFile bounds a prices file; LiteLLM's own has 2 MiB.
const maxPricesFile = 64 << 20

// readPrices is the built-in table, with the file's prices laid over it if there
// is one.
func (b *Billing) readPrices() (*billing.Prices, error) {
	if b.Prices == "" {
		return billing.BuiltIn(), nil
	}
	path, err := resolve(b.Prices)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxPricesFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(content) > maxPricesFile:
		return nil, fmt.Errorf("%s is larger than %d MiB, so it is not a price file", path, maxPricesFile>>20)
	}
	prices, err := billing.BuiltIn().Overlay(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return prices, nil
}
