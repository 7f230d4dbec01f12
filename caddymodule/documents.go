package caddymodule

import (
	"bytes"
	"context"
	"errors"
)

// documents keeps small documents of a store, by kind and name. A document is
// written whole: whatever happens, it is there in its old form or the new one.
// Kinds that hold secrets are sealed where there is a key (see sealer).
type documents interface {
	// load returns a document; nil, nil if there is none.
	load(ctx context.Context, k kind, name string) ([]byte, error)
	// save writes a document; it is safe when it returns nil.
	save(ctx context.Context, k kind, name string, content []byte) error
	// change replaces a document by what f makes of it, in one step over all who
	// share the store. f gets nil where there is none, and may be called more than
	// once; nil, and what it returns unchanged, is not written.
	change(ctx context.Context, k kind, name string, f func(old []byte) []byte) error
	// names lists the documents of a kind, in no order.
	names(ctx context.Context, k kind) ([]string, error)
	// ready makes sure that the key is the store's, and that secrets from before
	// the key are sealed. Where it is known already it costs nothing.
	ready(ctx context.Context) error
	// where is the place of a document, for the operator.
	where(k kind, name string) string
	// sealedWith is the key; nil = none.
	sealedWith() sealer
}

// kind is a sort of documents.
type kind struct {
	name   string
	secret bool
}

var (
	tokenDocuments    = kind{"tokens", true}
	standingDocuments = kind{"standings", false} // of embedded stores
	identityDocuments = kind{"identities", false}
	// checkDocuments holds one document that tells whether the key is right.
	checkDocuments = kind{"key", true}
)

const checkName = "check"

// prepareKey is ready's work, for every sort of documents.
func prepareKey(ctx context.Context, d documents) error {
	check, err := d.load(ctx, checkDocuments, checkName)
	if err != nil || d.sealedWith() == nil {
		return err
	}
	if check == nil {
		keep := func(old []byte) []byte {
			if old != nil {
				return old
			}
			return []byte("{}")
		}
		// Where another key was first, this is an error.
		if err := d.change(ctx, checkDocuments, checkName, keep); err != nil {
			return err
		}
	}
	names, err := d.names(ctx, tokenDocuments)
	for _, name := range names {
		unchanged := func(old []byte) []byte { return old }
		err = errors.Join(err, d.change(ctx, tokenDocuments, name, unchanged))
	}
	return err
}

// openStored is sealer.open for what may not be there.
func openStored(s sealer, k kind, name string, stored []byte, where string) ([]byte, error) {
	if stored == nil {
		return nil, nil
	}
	return s.open(k, name, stored, where)
}

// upToDate tells whether a document need not be written again: it is the same,
// and sealed if it has to be.
func upToDate(s sealer, k kind, stored, old, next []byte) bool {
	return next == nil || stored != nil && bytes.Equal(old, next) && isSealed(stored) == (k.secret && s != nil)
}
