package anthropic_test

import (
	"slices"
	"testing"

	"github.com/sub2api/caddy-sub2api/internal/modelname"
	"github.com/sub2api/caddy-sub2api/upstream/anthropic"
)

func TestTheBuiltInModelsAreKnown(t *testing.T) {
	for _, name := range anthropic.BuiltInModels {
		if f, known := modelname.Lookup(name); !known || f.MaxInputTokens == 0 || f.MaxOutputTokens == 0 || f.Released.IsZero() {
			t.Errorf("%s: %+v, known %t", name, f, known)
		}
	}
	if !slices.IsSorted(anthropic.BuiltInModels) {
		t.Error("they are not sorted")
	}
}
