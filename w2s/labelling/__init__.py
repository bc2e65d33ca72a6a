"""Operations on weak labels, before a student learns from them."""
