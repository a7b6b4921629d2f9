"""What can be told from English and Chinese text by its form alone: words, sentences, dates, questions. Pure."""
