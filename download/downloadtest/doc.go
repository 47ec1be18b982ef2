// Package downloadtest holds the conformance kit for implementations of
// [download.Fetcher]. A product that brings its own sources runs [Fetcher] on
// each of them.
package downloadtest
